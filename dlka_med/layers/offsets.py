"""The learned offsets of every deformable layer of a module: to look at, to measure, to switch off."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dlka_med.layers.bounds import kernel_positions
from dlka_med.layers.dcnv3 import DeformAggregation
from dlka_med.layers.deform_conv import DeformConv

DeformableLayer = DeformConv | DeformAggregation
AT_LIMIT = 0.95


@dataclass(frozen=True)
class Deformation:
    """What a deformable layer does to its kernel points, over all positions, groups and images of an input.

    Attributes:
        displacement: mean length of the learned offsets, in voxels of the layer's input.
        largest: greatest learned offset along an axis, in voxels.
        outside: share of the kernel points that lie outside the image, where they read zero and learn nothing.
        outside_undeformed: that share if all offsets were zero.
        at_limit: share of the kernel points that an axis holds at `offset_limit` (over 95 % of it), where offsets
            hardly learn; 0 without a limit.
    """

    displacement: float
    largest: float
    outside: float
    outside_undeformed: float
    at_limit: float = 0.0


@dataclass(frozen=True)
class KernelPoints:
    """Where a deformable layer reads its input, in voxels of that input.

    Attributes:
        start: `(1, G, K, d, *S')` kernel points before they move.
        offsets: `(B, G, K, d, *S')` learned displacements.
        modulation: `(B, G, K, *S')` factors of what is read; None without modulation.
        size: spatial shape S of the input.
        limit: `offset_limit` of the layer.
    """

    start: Tensor
    offsets: Tensor
    modulation: Tensor | None
    size: tuple[int, ...]
    limit: float | None

    @classmethod
    def of(cls, layer: DeformableLayer, x: Tensor) -> KernelPoints:
        """Those of a layer for its input x, in float64."""
        geometry, dims = layer.geometry, layer.geometry.spatial_dims
        shape = (geometry.offset_groups, geometry.points)
        offsets, modulation = layer.predict_offsets(x)
        offsets = offsets.unflatten(1, (*shape, dims)).double()
        start = torch.zeros_like(offsets[:1])
        for axis, position in enumerate(kernel_positions(geometry, start.shape[4:], start.dtype, start.device)):
            start[:, :, :, axis] += position.expand(*geometry.kernel_size, *start.shape[4:]).flatten(0, dims - 1)
        if layer.spread is not None:
            spread = layer.spread.double().view(*shape, dims, *[1] * dims)
            start, offsets = start + spread, offsets - spread
        modulation = None if modulation is None else modulation.unflatten(1, shape)
        return cls(start, offsets, modulation, tuple(x.shape[2:]), layer.offset_limit)

    def outside(self, moved: bool = True) -> Tensor:
        """Which points `(B or 1, G, K, *S')` lie outside the input, where they read zero, moved or not."""
        position = self.start + self.offsets if moved else self.start
        size = torch.tensor(self.size, device=position.device).view(-1, *[1] * len(self.size))
        return ((position <= -1) | (position >= size)).any(3)

    def at_limit(self) -> Tensor:
        """Which points `(B, G, K, *S')` an axis holds at the limit."""
        limit = float("inf") if self.limit is None else self.limit
        return (self.offsets.abs() > AT_LIMIT * limit).any(3)


def deformable_layers(module: nn.Module) -> dict[str, DeformableLayer]:
    """Name -> `DeformConv`, `DCNv3` or `DCNv4` in `module` ("" if it is `module` itself)."""
    return {name: part for name, part in module.named_modules() if isinstance(part, DeformableLayer)}


def predicting_parts(module: nn.Module) -> set[str]:
    """Names of all modules in `module` by which deformable layers compute their offsets and modulation."""
    found = set()
    for name, layer in deformable_layers(module).items():
        for child in layer.predicting:
            inside = layer.get_submodule(child).named_modules(prefix=child)
            found |= {f"{name}.{part}".removeprefix(".") for part, _ in inside}
    return found


def offset_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that offsets and modulation come from by their last map, in all deformable layers."""
    return [p for layer in deformable_layers(module).values() for part in layer.predictors() for p in part.parameters()]


@torch.no_grad()
def read_offsets(module: nn.Module, *inputs: Any) -> dict[str, Tensor]:
    """Run `module(*inputs)` in evaluation mode and return how far its deformable layers moved their kernel points.

    Works on a layer, a block or a network, whatever deforms in it; `module` is afterwards in the mode it was in.

    Returns:
        Name of the `DeformConv`, `DCNv3` or `DCNv4` in `module` ("" if it is `module` itself) -> offsets
        `(B, G, K, d, *S')` in voxels of that layer's input: for every output position, offset group and kernel
        point (the last kernel axis runs fastest) one displacement in the order of the spatial axes. Empty if
        nothing deforms. A layer that runs more than once has those of its last run.
    """
    offsets: dict[str, Tensor] = {}

    def keep(name: str, layer: DeformableLayer, arguments: tuple[Tensor]) -> None:
        offsets[name] = _offsets(layer, arguments[0])

    _run(module, inputs, keep)
    return offsets


@torch.no_grad()
def visit_points(module: nn.Module, visit: Callable[[str, KernelPoints], None], *inputs: Any) -> Any:
    """Run `module(*inputs)` as `read_offsets` does, calling `visit(name, points)` at every deformable layer.

    Returns:
        The output of `module`.
    """

    def look(name: str, layer: DeformableLayer, arguments: tuple[Tensor]) -> None:
        visit(name, KernelPoints.of(layer, arguments[0]))

    return _run(module, inputs, look)


def measure_deformation(module: nn.Module, *inputs: Any) -> dict[str, Deformation]:
    """Run `module(*inputs)` as `read_offsets` does, and return for every deformable layer what its offsets do."""
    measured: dict[str, Deformation] = {}

    def keep(name: str, points: KernelPoints) -> None:
        measured[name] = Deformation(
            displacement=points.offsets.norm(dim=3).mean().item(),
            largest=points.offsets.abs().max().item(),
            outside=_share(points.outside()),
            outside_undeformed=_share(points.outside(moved=False)),
            at_limit=_share(points.at_limit()),
        )

    visit_points(module, keep, *inputs)
    return measured


def _share(where: Tensor) -> float:
    return where.double().mean().item()


@contextmanager
def without_offsets(module: nn.Module, names: Iterable[str] | None = None) -> Iterator[None]:
    """Inside, these deformable layers of `module` (None: all) leave their kernel points where they are.

    The modulation stays. For looking at what deforming does; not while training.
    """
    layers = deformable_layers(module)
    kept = []
    try:
        with torch.no_grad():
            for name in layers if names is None else names:
                predictor, channels = layers[name].offset_predictor()
                for parameter in predictor.parameters():
                    rows = parameter.detach()[channels]
                    kept.append((rows, rows.clone()))
                    rows.zero_()
        yield
    finally:
        with torch.no_grad():
            for rows, values in reversed(kept):
                rows.copy_(values)


@torch.no_grad()
def effects_of_layers(module: nn.Module, *inputs: Any) -> dict[str, tuple[float, float]]:
    """How much the output of `module(*inputs)`, in evaluation mode, depends on each deformable layer.

    Returns:
        Name as in `read_offsets` -> root of the mean squared change of the output, over the output's deviation, first
        if the layer returns zeros, then if only its offsets are zero. 0 of the first means: the layer does nothing.
    """
    plain = _run(module, inputs)
    deviation = plain.double().std().clamp(min=1e-30)

    def change(output: Tensor) -> float:
        return ((output.double() - plain.double()).square().mean().sqrt() / deviation).item()

    return {name: (change(silent), change(still)) for name, silent, still in outputs_without(module, *inputs)}


@torch.no_grad()
def outputs_without(module: nn.Module, *inputs: Any) -> Iterator[tuple[str, Any, Any]]:
    """For each deformable layer its name and `module(*inputs)`, in evaluation mode, if the layer returns zeros, and if
    only its offsets are zero.
    """
    for name, layer in deformable_layers(module).items():
        hook = layer.register_forward_hook(lambda layer, arguments, output: torch.zeros_like(output))
        try:
            silent = _run(module, inputs)
        finally:
            hook.remove()
        with without_offsets(module, [name]):
            still = _run(module, inputs)
        yield name, silent, still


def _offsets(layer: DeformableLayer, x: Tensor) -> Tensor:
    geometry = layer.geometry
    shape = (geometry.offset_groups, geometry.points, geometry.spatial_dims)
    offsets = layer.predict_offsets(x)[0].unflatten(1, shape)
    return offsets if layer.spread is None else offsets - layer.spread.view(*shape, *[1] * geometry.spatial_dims)


def _run(module: nn.Module, inputs: tuple[Any, ...], look: Callable[..., None] | None = None) -> Any:
    """`module(*inputs)` in evaluation mode; `look(name, layer, arguments)` is called at every deformable layer."""
    modes = {part: part.training for part in module.modules()}
    hooks = []
    if look is not None:
        for name, layer in deformable_layers(module).items():
            hooks.append(layer.register_forward_pre_hook(partial(look, name)))
    try:
        return module.eval()(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
        for part, training in modes.items():
            part.training = training

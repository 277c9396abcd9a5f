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


def deformable_layers(module: nn.Module) -> dict[str, DeformableLayer]:
    """Name -> `DeformConv`, `DCNv3` or `DCNv4` in `module` ("" if it is `module` itself)."""
    return {name: part for name, part in module.named_modules() if isinstance(part, DeformableLayer)}


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
def measure_deformation(module: nn.Module, *inputs: Any) -> dict[str, Deformation]:
    """Run `module(*inputs)` as `read_offsets` does, and return for every deformable layer what its offsets do."""
    measured: dict[str, Deformation] = {}

    def keep(name: str, layer: DeformableLayer, arguments: tuple[Tensor]) -> None:
        measured[name] = _measure(layer, arguments[0])

    _run(module, inputs, keep)
    return measured


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
            for rows, values in kept:
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

    effects = {}
    for name, layer in deformable_layers(module).items():
        hook = layer.register_forward_hook(lambda layer, arguments, output: torch.zeros_like(output))
        try:
            silent = change(_run(module, inputs))
        finally:
            hook.remove()
        with without_offsets(module, [name]):
            effects[name] = silent, change(_run(module, inputs))
    return effects


def _offsets(layer: DeformableLayer, x: Tensor) -> Tensor:
    geometry = layer.geometry
    shape = (geometry.offset_groups, geometry.points, geometry.spatial_dims)
    return layer.predict_offsets(x)[0].unflatten(1, shape)


def _measure(layer: DeformableLayer, x: Tensor) -> Deformation:
    geometry, dims, limit = layer.geometry, layer.geometry.spatial_dims, layer.offset_limit
    offset = _offsets(layer, x).double()
    start = torch.zeros_like(offset[:1])
    if layer.spread is not None:
        start += layer.spread.view(start.shape[1:4] + (1,) * dims)
    for axis, position in enumerate(kernel_positions(geometry, offset.shape[4:], offset.dtype, offset.device)):
        start[:, :, :, axis] += position.expand(*geometry.kernel_size, *offset.shape[4:]).flatten(0, dims - 1)
    if layer.spread is not None:
        offset = offset - layer.spread.view(offset.shape[1:4] + (1,) * dims)
    size = torch.tensor(x.shape[2:], device=x.device).view(-1, *[1] * dims)

    def outside(position: Tensor) -> float:
        return ((position <= -1) | (position >= size)).any(3).double().mean().item()

    return Deformation(
        displacement=offset.norm(dim=3).mean().item(),
        largest=offset.abs().max().item(),
        outside=outside(start + offset),
        outside_undeformed=outside(start),
        at_limit=0.0 if limit is None else (offset.abs() > AT_LIMIT * limit).any(3).double().mean().item(),
    )


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

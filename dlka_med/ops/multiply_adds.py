"""How many multiply-adds a network costs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from dlka_med.ops.backends import BACKENDS
from dlka_med.ops.geometry import Geometry


class SamplingCounter:
    """A backend of `deform_conv` that computes nothing but what it would cost.

    Attributes:
        sampling: multiply-adds so far of the interpolation between voxels.
        kernel: those of what the sampled values then meet.
    """

    def __init__(self) -> None:
        self.sampling = self.kernel = 0

    def why_not(self, *arguments: object) -> None:
        """None: it counts everything."""

    def run(
        self,
        x: Tensor,
        offset: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mask: Tensor | None,
        geometry: Geometry,
    ) -> Tensor:
        """A tensor without content of the result's shape.

        Each sampled value is interpolated between 2**d voxels, then meets its weights. Without a weight it is added up.
        """
        features = x.shape[1] if weight is None else weight.shape[0]
        y = x.new_empty(x.shape[0], features, *offset.shape[2:])
        positions = y.numel() // features
        values = positions * geometry.points * x.shape[1]
        self.sampling += values * 2**geometry.spatial_dims
        self.kernel += values * (1 if weight is None else features // geometry.groups)
        return y


@dataclass
class Work:
    """Multiply-adds of one module, without those of the modules in it.

    Attributes:
        plain: of convolutions, matrix products and attention.
        sampling: of deformable convolutions, the interpolation between voxels.
        kernel: of deformable convolutions, the sampled values times their weights, or added up.
        shapes: of the tensors that it returned last; empty if it did not run.
    """

    plain: int = 0
    sampling: int = 0
    kernel: int = 0
    shapes: tuple[tuple[int, ...], ...] = ()

    @property
    def total(self) -> int:
        """All of them."""
        return self.plain + self.sampling + self.kernel


def multiply_adds(network: nn.Module, *shape: int) -> int:
    """Multiply-adds of a forward pass in evaluation mode, half the usual FLOPs.

    Convolutions, matrix products and attention are counted, and of deformable convolutions also the linear
    interpolation: `2**d` multiply-adds for each kernel point, position and channel. Norms, activations and resampling,
    which are small beside them, are not.

    Args:
        network: it loses its weights: give one that is not needed any more.
        shape: of its input, such as `(1, channels, *patch)`.
    """
    return sum(work.total for work in work_of_modules(network, *shape).values())


def work_of_modules(network: nn.Module, *shape: int) -> dict[str, Work]:
    """What each module of a network costs in a forward pass, counted as in `multiply_adds`.

    Args:
        network, shape: as there.

    Returns:
        Name of every module ("" for the network itself) -> its own multiply-adds, and the shapes that it returned.
        Weights that a module uses without calling the layer that holds them are counted as the work of that module.
    """
    network = network.to("meta").eval()
    work = {name: Work() for name, _ in network.named_modules()}
    counter, running, seen = SamplingCounter(), [""], (0, 0, 0)

    def settle() -> None:
        """What was computed since the last call was computed by the innermost module that runs."""
        nonlocal seen
        now = counted.get_total_flops() // 2, counter.sampling, counter.kernel
        plain, sampling, kernel = (after - before for after, before in zip(now, seen, strict=True))
        mine, seen = work[running[-1]], now
        mine.plain, mine.sampling, mine.kernel = mine.plain + plain, mine.sampling + sampling, mine.kernel + kernel

    def watch(name: str, module: nn.Module) -> None:
        def begin(module: nn.Module, arguments: Any) -> None:
            settle()
            running.append(name)

        def end(module: nn.Module, arguments: Any, output: Any) -> None:
            settle()
            running.pop()
            work[name].shapes = tuple(tuple(part.shape) for part in tree_iter(output) if isinstance(part, Tensor))

        hooks.extend([module.register_forward_pre_hook(begin), module.register_forward_hook(end)])

    hooks: list[Any] = []
    try:
        with torch.no_grad(), _only_backend(counter), FlopCounterMode(display=False) as counted:
            for name, module in network.named_modules():
                watch(name, module)
            network(torch.empty(shape, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return work


@contextmanager
def _only_backend(counter: SamplingCounter) -> Iterator[None]:
    before = dict(BACKENDS)
    BACKENDS.clear()
    BACKENDS["counter"] = counter
    try:
        yield
    finally:
        BACKENDS.clear()
        BACKENDS.update(before)

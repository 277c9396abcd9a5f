"""How many multiply-adds a network costs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dlka_med.ops.backends import BACKENDS
from dlka_med.ops.geometry import Geometry


class SamplingCounter:
    """A backend of `deform_conv` that computes nothing but what it would cost.

    Attributes:
        total: multiply-adds so far.
    """

    def __init__(self) -> None:
        self.total = 0

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
        per_value = 2**geometry.spatial_dims + (1 if weight is None else features // geometry.groups)
        self.total += positions * geometry.points * x.shape[1] * per_value
        return y


def multiply_adds(network: nn.Module, *shape: int) -> int:
    """Multiply-adds of a forward pass in evaluation mode, half the usual FLOPs.

    Convolutions, matrix products and attention are counted, and of deformable convolutions also the linear
    interpolation: `2**d` multiply-adds for each kernel point, position and channel. Norms, activations and resampling,
    which are small beside them, are not.

    Args:
        network: it loses its weights: give one that is not needed any more.
        shape: of its input, such as `(1, channels, *patch)`.
    """
    network = network.to("meta").eval()
    counter = SamplingCounter()
    with torch.no_grad(), _only_backend(counter), FlopCounterMode(display=False) as counted:
        network(torch.empty(shape, device="meta"))
    return counted.get_total_flops() // 2 + counter.total


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

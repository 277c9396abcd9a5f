"""The geometry of a deformable convolution: one frozen record that all backends read."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass


def per_axis(name: str, value: int | Sequence[int], spatial_dims: int, minimum: int) -> tuple[int, ...]:
    """`value` as one integer per spatial axis.

    Raises:
        TypeError: an entry is not an integer.
        ValueError: the number of entries is not `spatial_dims`, or an entry is less than `minimum`.
    """
    values = tuple(value) if isinstance(value, Sequence) else (value,) * spatial_dims
    if not all(isinstance(entry, int) and not isinstance(entry, bool) for entry in values):
        raise TypeError(f"{name}: expected an integer or {spatial_dims} integers, got {value!r}")
    if len(values) != spatial_dims:
        raise ValueError(f"{name}: expected an integer or {spatial_dims} integers, got {value!r}")
    if any(entry < minimum for entry in values):
        raise ValueError(f"{name}: expected integers of at least {minimum}, got {value!r}")
    return values


@dataclass(frozen=True)
class Geometry:
    """Where the kernel points of every output position lie; lengths are in voxels of the input.

    All tuples have one entry per spatial axis, in the order of the tensor's own axes.
    """

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    offset_groups: int

    @classmethod
    def of(
        cls,
        spatial_dims: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        offset_groups: int = 1,
    ) -> Geometry:
        """The record for these arguments, single integers repeated for every axis.

        Raises:
            TypeError: an argument is not made of integers.
            ValueError: an argument has the wrong length or an impossible value.
        """
        return cls(
            kernel_size=per_axis("kernel_size", kernel_size, spatial_dims, 1),
            stride=per_axis("stride", stride, spatial_dims, 1),
            padding=per_axis("padding", padding, spatial_dims, 0),
            dilation=per_axis("dilation", dilation, spatial_dims, 1),
            groups=per_axis("groups", groups, 1, 1)[0],
            offset_groups=per_axis("offset_groups", offset_groups, 1, 1)[0],
        )

    @property
    def spatial_dims(self) -> int:
        """Number of spatial axes (d)."""
        return len(self.kernel_size)

    @property
    def points(self) -> int:
        """Number of kernel points (K)."""
        return math.prod(self.kernel_size)

    @property
    def kernel_points(self) -> tuple[tuple[int, ...], ...]:
        """Position of each kernel point relative to the first one, dilated; the last axis runs fastest."""
        axes = (range(0, size * step, step) for size, step in zip(self.kernel_size, self.dilation, strict=True))
        return tuple(itertools.product(*axes))

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Spatial shape of the output for an input of spatial shape `size`, as for a plain convolution."""
        axes = zip(size, self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
        return tuple(
            (extent + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for extent, kernel, stride, padding, dilation in axes
        )

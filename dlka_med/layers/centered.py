"""Reading an image at the output positions of another convolution, centred where its kernel is."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from dlka_med.layers.conv import CONV
from dlka_med.ops.geometry import Geometry


class CenteredDepthwise(nn.Module):
    """Depthwise conv at the output positions of `geometry`, its kernel centred where that of `geometry` is."""

    def __init__(self, channels: int, kernel_size: tuple[int, ...], geometry: Geometry) -> None:
        super().__init__()
        borders = centered_borders(geometry, kernel_size)
        padding = [max(min(border), 0) for border in borders]
        rest = [(before - own, behind - own) for (before, behind), own in zip(borders, padding, strict=True)]
        self.border = pad_argument(rest)
        self.conv = CONV[geometry.spatial_dims](
            channels, channels, kernel_size, geometry.stride, padding, groups=channels
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(B, channels, *S)` to `(B, channels, *S')`."""
        return self.conv(F.pad(x, self.border) if any(self.border) else x)


def centered_borders(geometry: Geometry, kernel_size: Sequence[int]) -> list[tuple[int, int]]:
    """Voxels to add before and behind each axis (negative: to cut off) for a plain kernel in the place of another.

    A convolution of `kernel_size` with the stride of `geometry` then has the output positions of `geometry`, and
    at each of them its centre.
    """
    borders = []
    for size, own, padding, step in zip(
        geometry.kernel_size, kernel_size, geometry.padding, geometry.dilation, strict=True
    ):
        reach = step * (size - 1)
        before = padding - reach // 2 + (own - 1) // 2
        borders.append((before, 2 * padding - reach + own - 1 - before))
    return borders


def pad_argument(borders: Sequence[tuple[int, int]]) -> list[int]:
    """What `F.pad` wants to hear: the last axis first."""
    return [n for border in reversed(borders) for n in border]


def at_centers(x: Tensor, geometry: Geometry) -> Tensor:
    """The voxels of `x` under the kernel's centre, `(B, C, *S)` to `(B, C, *S')`; zero outside."""
    border = pad_argument(centered_borders(geometry, [1] * geometry.spatial_dims))
    if any(border):
        x = F.pad(x, border)
    return x[(..., *(slice(None, None, step) for step in geometry.stride))]

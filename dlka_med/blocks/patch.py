"""Patch embedding, merging and expanding: the steps between two resolutions."""

from collections.abc import Sequence
from math import gcd

from torch import Tensor, nn

from dlka_med.blocks.dims import CONV, CONV_TRANSPOSE, channels_last, check_spatial_dims


class PatchDownsample(nn.Module):
    """Conv with kernel = stride (no bias), then GroupNorm.

    x `(B, in_channels, *S)` -> `(B, out_channels, *[n // s for n, s in zip(S, stride)])`. The number of
    groups is `in_channels` as in the original, or its greatest divisor that `out_channels` shares.

    Raises:
        ValueError: if `spatial_dims` is not 2 or 3.
    """

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int, stride: int | Sequence[int]) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        stride = stride if isinstance(stride, int) else tuple(stride)
        self.conv = CONV[spatial_dims](in_channels, out_channels, stride, stride, bias=False)
        self.norm = nn.GroupNorm(gcd(in_channels, out_channels), out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(channels_last(x)))


class PatchUpsample(nn.Module):
    """Transposed conv with kernel = stride (no bias).

    x `(B, in_channels, *S)` -> `(B, out_channels, *[n * s for n, s in zip(S, stride)])`.

    Raises:
        ValueError: if `spatial_dims` is not 2 or 3.
    """

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int, stride: int | Sequence[int]) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        stride = stride if isinstance(stride, int) else tuple(stride)
        self.conv = CONV_TRANSPOSE[spatial_dims](in_channels, out_channels, stride, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(channels_last(x))

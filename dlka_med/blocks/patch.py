"""Patch embedding, merging and expanding: the steps between two resolutions."""

from collections.abc import Sequence
from math import gcd

from torch import Tensor, nn
from torch.nn import functional as F

from dlka_med.blocks.dims import CONV_TRANSPOSE, check_spatial_dims
from dlka_med.layers.conv import CONV
from dlka_med.ops.layout import channels_last


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


class PatchExpand(nn.Module):
    """1x1 conv (no bias) to the channels of `scale ** spatial_dims` voxels, then LayerNorm over each one's channels.

    x `(B, in_channels, *S)` -> `(B, out_channels, *[n * scale for n in S])`, channels-last in memory. The patch
    expanding of Swin-Unet (Cao et al., 2022, section 3.5).

    Raises:
        ValueError: if `spatial_dims` is not 2 or 3, or `scale` is less than 1.
    """

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int, scale: int) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        if scale < 1:
            raise ValueError(f"scale must be at least 1, got {scale}")
        self.scale = scale
        self.conv = CONV[spatial_dims](in_channels, out_channels * scale**spatial_dims, 1, bias=False)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x: Tensor, head: nn.Module | None = None) -> Tensor:
        """Expand x; `head`, a 1x1 conv of the result, is much cheaper here than afterwards."""
        dims = x.ndim - 2
        y = self.conv(channels_last(x)).movedim(1, -1)
        y = self.norm(y.unflatten(-1, (*[self.scale] * dims, -1)))
        if head is not None:
            y = F.linear(y, head.weight.flatten(1), head.bias)
        order = [axis for d in range(dims) for axis in (1 + d, 1 + dims + d)]
        y = y.permute(0, *order, -1)
        for axis in range(1, dims + 1):
            y = y.flatten(axis, axis + 1)
        return y.movedim(-1, 1)

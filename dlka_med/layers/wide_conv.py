"""A plain convolution with the parameters of a deformable one: what deforming is to be measured against."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlka_med.layers.conv import CONV


class WideConv(nn.Module):
    """`conv(x) + fold(gelu(wide(x)))`: exactly the parameters of a `DeformConv` of these arguments, and no offsets.

    `wide` is the convolution that would predict the offsets, of the same kernel and as many channels; its channels
    are added up on those of the output in turn, the j-th on channel `j % out_channels`, and where they are fewer each
    serves several. `wide` starts small rather than at zero, as the weights of a plain convolution do.

    x `(B, in_channels, *S)` -> `(B, out_channels, *S)` for odd kernels.

    Args:
        spatial_dims: 2 or 3.
        in_channels, out_channels: channels before and after.
        kernel_size, dilation: one integer each.
        groups: of `conv`, not of `wide`.
        offset_groups: as many as the deformable convolution would have.
        bias: of `conv`; `wide` always has one.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        dilation: int = 1,
        groups: int = 1,
        offset_groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        settings = {"padding": dilation * (kernel_size // 2), "dilation": dilation}
        channels = offset_groups * kernel_size**spatial_dims * spatial_dims
        convolution = CONV[spatial_dims]
        self.conv = convolution(in_channels, out_channels, kernel_size, groups=groups, bias=bias, **settings)
        self.wide = convolution(in_channels, channels, kernel_size, **settings)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + folded(F.gelu(self.wide(x)), self.conv.out_channels)


def folded(x: Tensor, channels: int) -> Tensor:
    """x `(B, C, *S)` on other `channels`: the sum of every channels-th, or each repeated where C is fewer."""
    present = x.shape[1]
    if present < channels:
        return x[:, torch.arange(channels, device=x.device) % present]
    missing = -present % channels
    whole = F.pad(x, (*[0] * (2 * (x.ndim - 2)), 0, missing)) if missing else x
    return whole.unflatten(1, (-1, channels)).sum(1)

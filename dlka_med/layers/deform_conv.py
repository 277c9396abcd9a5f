"""Deformable convolution as a layer, with (DCNv2) or without (DCNv1) modulation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dlka_med.layers.bounds import bounded
from dlka_med.layers.conv import CONV
from dlka_med.ops import deform_conv
from dlka_med.ops.geometry import Geometry


class DeformConv(nn.Module):
    """A convolution whose kernel points move by offsets that it predicts from its own input.

    The convolution of the offsets is dense, has the same kernel, stride, padding and dilation, and starts at
    zero, so that a new layer is exactly the plain convolution with the same weight and bias (Dai et al.,
    Deformable Convolutional Networks, ICCV 2017). With `modulated` it also predicts a factor per kernel
    point, `2 * sigmoid(logit)`: in (0, 2) and 1 at the start (Zhu et al., Deformable ConvNets v2, CVPR 2019,
    section 3.2, has `sigmoid(logit)`, which halves the plain convolution at the start).

    Args:
        spatial_dims: 1, 2 or 3.
        in_channels, out_channels: channels before and after.
        kernel_size, stride, dilation: one integer, or one per axis.
        padding: the same; None keeps the spatial shape at stride 1, for odd kernels.
        groups: groups of channels that are convolved separately; `in_channels` makes a depthwise convolution.
        offset_groups: groups of channels that share offsets and modulation.
        modulated: also predict the modulation.
        bias: add a learned bias.
        offset_limit: offsets are kept within this many voxels by `limit * tanh(offset / limit)`, and carry no
            kernel point out of the image (see `dlka_med.layers.bounds`); None: neither.

    Raises:
        TypeError: an argument is not made of integers.
        ValueError: an argument is impossible, or does not fit another.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int] = 3,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | None = None,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        offset_groups: int = 1,
        modulated: bool = False,
        bias: bool = True,
        offset_limit: float | None = None,
    ) -> None:
        super().__init__()
        if spatial_dims not in CONV:
            raise ValueError(f"spatial_dims: expected one of {tuple(CONV)}, got {spatial_dims!r}")
        if offset_limit is not None and not offset_limit > 0:
            raise ValueError(f"offset_limit: expected a positive number of voxels, got {offset_limit!r}")
        geometry = Geometry.of(spatial_dims, kernel_size, stride, 0, dilation, groups, offset_groups)
        if padding is None:
            padding = same_padding(geometry)
        geometry = Geometry.of(spatial_dims, kernel_size, stride, padding, dilation, groups, offset_groups)
        for name, number in (("groups", groups), ("offset_groups", offset_groups)):
            if in_channels < 1 or in_channels % number:
                raise ValueError(f"in_channels: expected a multiple of {name}={number}, got {in_channels}")
        if out_channels < 1 or out_channels % groups:
            raise ValueError(f"out_channels: expected a multiple of groups={groups}, got {out_channels}")
        self.geometry = geometry
        self.in_channels, self.out_channels = in_channels, out_channels
        self.modulated, self.offset_limit = modulated, offset_limit
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *geometry.kernel_size))
        if bias:
            self.bias = nn.Parameter(torch.empty(out_channels))
        else:
            self.register_parameter("bias", None)
        self.offset_conv = CONV[spatial_dims](
            in_channels,
            offset_groups * geometry.points * (spatial_dims + modulated),
            geometry.kernel_size,
            geometry.stride,
            geometry.padding,
            geometry.dilation,
        )
        self.reset_parameters()

    spread = None
    predicting = ("offset_conv",)

    def predictors(self) -> tuple[nn.Module, ...]:
        """The layers whose output is offsets and modulation."""
        return (self.offset_conv,)

    def offset_predictor(self) -> tuple[nn.Module, slice]:
        """The layer whose output holds the offsets, and the channels that they are."""
        return self.offset_conv, slice(self.geometry.offset_groups * self.geometry.points * self.geometry.spatial_dims)

    def reset_parameters(self) -> None:
        """Draw weight and bias as `torch.nn.Conv3d` does; set the convolution of the offsets to zero."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)
        nn.init.zeros_(self.offset_conv.weight)
        nn.init.zeros_(self.offset_conv.bias)

    def predict_offsets(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Offsets in voxels `(B, G*K*d, *S')` and modulation `(B, G*K, *S')` or None, for `deform_conv`."""
        predicted = self.offset_conv(x)
        offsets = self.geometry.offset_groups * self.geometry.points * self.geometry.spatial_dims
        offset = bounded(predicted[:, :offsets], self.geometry, x.shape[2:], self.offset_limit)
        return offset, 2 * torch.sigmoid(predicted[:, offsets:]) if self.modulated else None

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, *S)` to `(B, out_channels, *S')`."""
        offset, mask = self.predict_offsets(x)
        return deform_conv(
            x,
            offset,
            self.weight,
            self.bias,
            mask=mask,
            stride=self.geometry.stride,
            padding=self.geometry.padding,
            dilation=self.geometry.dilation,
            groups=self.geometry.groups,
            offset_groups=self.geometry.offset_groups,
        )

    def extra_repr(self) -> str:
        """The arguments, for `print`."""
        settings = {name: value for name, value in vars(self.geometry).items()}
        settings |= {"modulated": self.modulated, "bias": self.bias is not None}
        settings |= {"offset_limit": self.offset_limit}
        values = ", ".join(f"{name}={value}" for name, value in settings.items())
        return f"{self.in_channels}, {self.out_channels}, {values}"


def same_padding(geometry: Geometry) -> tuple[int, ...]:
    """The padding that keeps the spatial shape at stride 1; a ValueError for even kernels."""
    reach = [step * (size - 1) for size, step in zip(geometry.kernel_size, geometry.dilation, strict=True)]
    if any(extent % 2 for extent in reach):
        raise ValueError(f"padding: expected with the even kernel_size {geometry.kernel_size}, got None")
    return tuple(extent // 2 for extent in reach)

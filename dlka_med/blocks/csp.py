"""A CSP block whose bottlenecks deform, for YOLO-style necks and for segmentation decoders."""

import torch
from torch import Tensor, nn

from dlka_med.blocks.dims import check_spatial_dims
from dlka_med.blocks.large_kernel_attention import LargeKernelAttention
from dlka_med.blocks.norm import Norm, norm_layer
from dlka_med.layers import DCNv3
from dlka_med.layers.conv import CONV
from dlka_med.ops.layout import channels_last


class DeformableBottleneck(nn.Module):
    """1x1 conv, DCNv3 of kernel 3, large kernel attention whose gate deforms by DCNv3; plus the input.

    x `(B, in_channels, *S)` -> `(B, out_channels, *S)`. Norm and SiLU follow the conv and the DCNv3. The input is
    added if `shortcut` and the channels agree.

    Raises:
        ValueError: for other values of `spatial_dims` or `norm`, or if `groups` does not divide `out_channels`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        shortcut: bool = True,
        groups: int = 1,
        *,
        spatial_dims: int = 2,
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        self.conv = conv_norm_act(spatial_dims, in_channels, out_channels, norm)
        self.deform = nn.Sequential(
            DCNv3(out_channels, 3, group=groups, spatial_dims=spatial_dims),
            norm_layer(norm, spatial_dims, out_channels),
            nn.SiLU(),
        )
        self.attention = LargeKernelAttention(out_channels, spatial_dims, "dcnv3", offset_groups=groups)
        self.shortcut = shortcut and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.attention(self.deform(self.conv(x)))
        return x + y if self.shortcut else y


class C3_DCNv3_DLKA(nn.Module):
    """Cross stage partial block with three 1x1 convs, as YOLOv5's C3, whose bottlenecks use DCNv3 and D-LKA.

    x `(B, c1, *S)` -> `(B, c2, *S)`, channels-last in memory: `cv3` of the concatenation of `cv2` and of `n`
    bottlenecks behind `cv1`. Each conv has a norm and SiLU (Wang et al., CSPNet, CVPR Workshops 2020; D-LKA: Azad et
    al., WACV 2024). The order of the arguments is that of YOLO configs.

    Args:
        c1: channels of the input.
        c2: channels of the output.
        n: number of bottlenecks, each as `DeformableBottleneck`.
        shortcut: whether each bottleneck adds its input.
        g: groups of channels that share offsets, in all DCNv3 layers; a divisor of `int(c2 * e)`.
        e: hidden channels per output channel.
        spatial_dims: 2 or 3.
        norm: "batch", or "instance" (per image and channel, without parameters).

    Raises:
        ValueError: if an argument is out of range or does not fit another.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        n: int = 1,
        shortcut: bool = True,
        g: int = 1,
        e: float = 0.5,
        *,
        spatial_dims: int = 2,
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        hidden = int(c2 * e)
        for name, number in (("c1", c1), ("c2", c2), ("n", n), ("g", g), ("hidden channels int(c2 * e)", hidden)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        if hidden % g:
            raise ValueError(f"g must divide the hidden channels int(c2 * e) = {hidden}, got {g}")
        self.cv1 = conv_norm_act(spatial_dims, c1, hidden, norm)
        self.cv2 = conv_norm_act(spatial_dims, c1, hidden, norm)
        self.cv3 = conv_norm_act(spatial_dims, 2 * hidden, c2, norm)
        self.m = nn.Sequential(
            *(DeformableBottleneck(hidden, hidden, shortcut, g, spatial_dims=spatial_dims, norm=norm) for _ in range(n))
        )

    def forward(self, x: Tensor) -> Tensor:
        x = channels_last(x)
        return channels_last(self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1)))


def conv_norm_act(spatial_dims: int, in_channels: int, out_channels: int, norm: Norm) -> nn.Sequential:
    """1x1 conv without bias, norm, SiLU."""
    return nn.Sequential(
        CONV[spatial_dims](in_channels, out_channels, 1, bias=False),
        norm_layer(norm, spatial_dims, out_channels),
        nn.SiLU(),
    )

"""The D-LKA block: large kernel attention and a feed-forward part, each with a residual."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlka_med.blocks.dims import (
    DROPOUT,
    INTERPOLATION,
    check_choice,
    check_spatial_dims,
    per_channel,
)
from dlka_med.blocks.large_kernel_attention import Deformation, LargeKernelAttention
from dlka_med.blocks.norm import ChannelNorm, Norm
from dlka_med.blocks.residual_conv import ResidualConv
from dlka_med.layers.conv import CONV
from dlka_med.ops.layout import channels_last

FeedForward = Literal["residual_conv", "conv_mlp"]
Attention = Literal[Deformation, "absent"]


class DLKABlock(nn.Module):
    """Large kernel attention and feed-forward part (Azad et al., WACV 2024, sections 3.2 and 3.3).

    x `(B, channels, *S)` -> the same shape; the result is channels-last in memory.

        x = x + position                                        if `position_size` is given
        x = x + attention_scale * attention(LayerNorm(x))
        x = x + conv1x1(dropout(ResidualConv(x)))               "residual_conv", the U-Nets
        x = x + mlp_scale * mlp(LayerNorm(x))                   "conv_mlp", 2D D-LKA Net

    Args:
        channels: of input and output.
        spatial_dims: 2 or 3.
        deformation: which convs of the attention's gate deform, see `LargeKernelGate`; None: "dcnv3" in 2D,
            "dense" in 3D; "absent": the block has no attention.
        feed_forward: "residual_conv", or "conv_mlp": 1x1 conv, depthwise 3x3 conv, GELU, 1x1 conv.
        position_size: spatial shape of a learned position embedding, one vector per voxel, interpolated
            linearly for inputs of another size; None: no embedding.
        layer_scale: start value of the scales above (published: 1e-6 in 3D, 1e-2 in 2D).
        drop_path: probability that a residual branch is left out for an image of the batch.
        dropout: probability that a channel ("residual_conv") or a value ("conv_mlp") is left out.
        norm: norm of the residual conv block.
        mlp_ratio: hidden channels of the MLP per channel.
        **attention: further arguments of `LargeKernelGate`.

    Raises:
        ValueError: for an unknown choice, or a `position_size` of the wrong length.
    """

    def __init__(
        self,
        channels: int,
        spatial_dims: int,
        deformation: Attention | None = None,
        *,
        feed_forward: FeedForward = "residual_conv",
        position_size: Sequence[int] | None = None,
        layer_scale: float = 1e-6,
        drop_path: float = 0.0,
        dropout: float = 0.0,
        norm: Norm = "batch",
        mlp_ratio: int = 4,
        **attention: Any,
    ) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        check_choice("feed_forward", feed_forward, ("residual_conv", "conv_mlp"))
        self.position = None
        if position_size is not None:
            if len(position_size) != spatial_dims:
                raise ValueError(f"position_size needs {spatial_dims} sizes, got {tuple(position_size)}")
            self.position = nn.Parameter(torch.zeros(*position_size, channels))
        self.attention = None
        if deformation != "absent":
            self.attention_norm = ChannelNorm(channels)
            self.attention = LargeKernelAttention(channels, spatial_dims, deformation, **attention)
            self.attention_scale = nn.Parameter(torch.full((channels,), layer_scale))
        self.mlp_scale = None
        if feed_forward == "residual_conv":
            self.feed_forward = nn.Sequential(
                ResidualConv(spatial_dims, channels, channels, norm=norm),
                DROPOUT[spatial_dims](dropout),
                CONV[spatial_dims](channels, channels, 1),
            )
        else:
            hidden = mlp_ratio * channels
            self.mlp_scale = nn.Parameter(torch.full((channels,), layer_scale))
            self.feed_forward = nn.Sequential(
                ChannelNorm(channels),
                CONV[spatial_dims](channels, hidden, 1),
                CONV[spatial_dims](hidden, hidden, 3, padding=1, groups=hidden),
                nn.GELU(),
                nn.Dropout(dropout),
                CONV[spatial_dims](hidden, channels, 1),
                nn.Dropout(dropout),
            )
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = channels_last(x)
        if self.position is not None:
            x = x + resized(self.position.movedim(-1, 0)[None], x.shape[2:])
        dims = x.ndim - 2
        if self.attention is not None:
            branch = self.drop_path(self.attention(self.attention_norm(x)))
            x = torch.addcmul(x, per_channel(self.attention_scale, dims), branch)
        branch = self.drop_path(self.feed_forward(x))
        if self.mlp_scale is None:
            return x + branch
        return torch.addcmul(x, per_channel(self.mlp_scale, dims), branch)


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., 2016): in training, whole images of the batch become zero.

    Raises:
        ValueError: unless 0 <= `probability` < 1.
    """

    def __init__(self, probability: float = 0.0) -> None:
        super().__init__()
        if not 0 <= probability < 1:
            raise ValueError(f"drop_path must be at least 0 and below 1, got {probability}")
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return x
        keep = 1 - self.probability
        return x * (x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(keep) / keep)


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """x `(B, C, *S)` interpolated linearly to the spatial shape `size`; x itself if that is its shape."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode=INTERPOLATION[len(size)], align_corners=False)

"""Residual conv block."""

from torch import Tensor, nn
from torch.nn import functional as F

from dlka_med.blocks.dims import check_spatial_dims
from dlka_med.blocks.norm import Norm, norm_layer
from dlka_med.layers.conv import CONV
from dlka_med.ops.layout import channels_last


class ResidualConv(nn.Module):
    """conv 3, norm, LeakyReLU, conv 3, norm, plus the input, LeakyReLU; all without conv bias.

    x `(B, in_channels, *S)` -> `(B, out_channels, *S)`. Where the channels differ, the input of the sum
    goes through a 1x1 conv and a norm. The block of MONAI's UNETR family and of D-LKA Net.

    Args:
        spatial_dims: 2 or 3.
        in_channels: of the input.
        out_channels: of the output.
        norm: "batch", or "instance" (per image and channel, without parameters).
        negative_slope: of the LeakyReLU.

    Raises:
        ValueError: for other values of `spatial_dims` or `norm`.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        norm: Norm = "batch",
        negative_slope: float = 0.01,
    ) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        conv = CONV[spatial_dims]
        self.conv1 = conv(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm1 = norm_layer(norm, spatial_dims, out_channels)
        self.conv2 = conv(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = norm_layer(norm, spatial_dims, out_channels)
        self.shortcut = (
            nn.Identity()
            if in_channels == out_channels
            else nn.Sequential(
                conv(in_channels, out_channels, 1, bias=False), norm_layer(norm, spatial_dims, out_channels)
            )
        )
        self.negative_slope = negative_slope

    def forward(self, x: Tensor) -> Tensor:
        # In place where autograd allows it: the norms keep their inputs, not their outputs.
        x = channels_last(x)
        y = F.leaky_relu(self.norm1(self.conv1(x)), self.negative_slope, inplace=True)
        y = self.norm2(self.conv2(y)).add_(self.shortcut(x))
        return F.leaky_relu(y, self.negative_slope, inplace=True)

"""Large kernel attention, plain and deformable (Azad et al., Beyond Self-Attention, WACV 2024, section 3)."""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from dlka_med.blocks.depthwise import DepthwiseConv
from dlka_med.blocks.dims import CONV, check_choice, check_spatial_dims
from dlka_med.layers import DeformConv

Deformation = Literal["none", "depthwise", "dense"]


class LargeKernelGate(nn.Module):
    """x * pointwise(large kernel(x)), the large kernel being a chain of small convolutions.

    The chain is a depthwise conv, a dilated depthwise conv and, for `deformation="dense"`, a dense
    deformable conv. Arguments and shapes are those of `LargeKernelAttention`.
    """

    def __init__(
        self,
        channels: int,
        spatial_dims: int,
        deformation: Deformation = "depthwise",
        *,
        kernel_size: int = 5,
        dilated_kernel_size: int = 7,
        dilation: int = 3,
        dense_kernel_size: int = 3,
        bias: bool = True,
    ) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        check_choice("deformation", deformation, ("none", "depthwise", "dense"))
        sizes = {"kernel_size": kernel_size, "dilated_kernel_size": dilated_kernel_size}
        for name, size in (sizes | {"dense_kernel_size": dense_kernel_size}).items():
            if size < 1 or size % 2 == 0:
                raise ValueError(f"{name} must be odd, so that the output is as large as the input, got {size}")
        deform = deformation == "depthwise"
        self.depthwise = _depthwise(spatial_dims, channels, kernel_size, 1, bias, deform)
        self.dilated = _depthwise(spatial_dims, channels, dilated_kernel_size, dilation, bias, deform)
        self.dense = (
            DeformConv(spatial_dims, channels, channels, dense_kernel_size, bias=bias)
            if deformation == "dense"
            else nn.Identity()
        )
        self.pointwise = CONV[spatial_dims](channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.pointwise(self.dense(self.dilated(self.depthwise(x))))


class LargeKernelAttention(nn.Module):
    """1x1 conv, GELU, gate by a large kernel, 1x1 conv, plus the input.

    x `(B, channels, *S)` -> the same shape, `len(S) == spatial_dims`.

    Args:
        channels: of input and output.
        spatial_dims: 2 or 3.
        deformation: which convs of the gate deform. "none": plain large kernel attention (Guo et al., Visual
            Attention Network, 2023); "depthwise": both depthwise convs (2D D-LKA Net, with `bias=False`);
            "dense": both are plain and a dense deformable conv follows (3D D-LKA Net).
        kernel_size: of the depthwise conv.
        dilated_kernel_size: of the dilated depthwise conv.
        dilation: of the dilated depthwise conv.
        dense_kernel_size: of the dense deformable conv.
        bias: whether the convs of the large kernel have one; the 1x1 convs always do.

    Raises:
        ValueError: for other values of `spatial_dims` or `deformation`, or an even kernel size.
    """

    def __init__(
        self,
        channels: int,
        spatial_dims: int,
        deformation: Deformation = "depthwise",
        *,
        kernel_size: int = 5,
        dilated_kernel_size: int = 7,
        dilation: int = 3,
        dense_kernel_size: int = 3,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.gate = LargeKernelGate(
            channels,
            spatial_dims,
            deformation,
            kernel_size=kernel_size,
            dilated_kernel_size=dilated_kernel_size,
            dilation=dilation,
            dense_kernel_size=dense_kernel_size,
            bias=bias,
        )
        self.project_in = CONV[spatial_dims](channels, channels, 1)
        self.project_out = CONV[spatial_dims](channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project_out(self.gate(F.gelu(self.project_in(x))))


def _depthwise(
    spatial_dims: int, channels: int, kernel_size: int, dilation: int, bias: bool, deform: bool
) -> nn.Module:
    if deform:
        return DeformConv(spatial_dims, channels, channels, kernel_size, dilation=dilation, groups=channels, bias=bias)
    return DepthwiseConv(spatial_dims, channels, kernel_size, dilation=dilation, bias=bias)

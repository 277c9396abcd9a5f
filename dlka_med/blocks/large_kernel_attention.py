"""Large kernel attention, plain and deformable (Azad et al., Beyond Self-Attention, WACV 2024, section 3)."""

from typing import Any, Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from dlka_med.blocks.dims import check_choice, check_spatial_dims
from dlka_med.layers import DCNv3, DeformConv, WideConv
from dlka_med.layers.conv import CONV

Deformation = Literal["none", "depthwise", "dcnv3", "dense", "still_dense", "wide_dense", "wide_depthwise"]
DEFORMATIONS: tuple[Deformation, ...] = get_args(Deformation)
DEFAULT_DEFORMATION: dict[int, Deformation] = {2: "dcnv3", 3: "dense"}


class LargeKernelGate(nn.Module):
    """x * pointwise(large kernel(x)), the large kernel being a chain of small convolutions.

    The chain is a depthwise conv, a dilated depthwise conv (both DCNv3 for `deformation="dcnv3"`) and, for
    `deformation="dense"` and its undeformed twins, a dense conv. x `(B, channels, *S)` -> the same shape.

    Args:
        channels: of input and output.
        spatial_dims: 2 or 3.
        deformation: which convs of the gate deform. "none": plain large kernel attention (Guo et al., Visual
            Attention Network, 2023); "depthwise": both depthwise convs (2D D-LKA Net, with `bias=False`);
            "dcnv3": both are DCNv3 layers of these kernels (see `dlka_med.layers.DCNv3`); "dense": both are plain
            and a dense deformable conv follows (3D D-LKA Net). None: "dcnv3" in 2D, "dense" in 3D. To see what
            deforming does: "still_dense" has the dense conv without offsets, "wide_dense" and "wide_depthwise" have
            plain convs of as many parameters in place of the deformable ones (see `dlka_med.layers.WideConv`).
        kernel_size: of the depthwise conv.
        dilated_kernel_size: of the dilated depthwise conv.
        dilation: of the dilated depthwise conv.
        dense_kernel_size: of the dense deformable conv.
        bias: whether the convs of the large kernel have one; the 1x1 convs and DCNv3 always do.
        offset_groups: groups of channels that share offsets, a divisor of `channels`. None: 1, and for "dcnv3"
            the greatest divisor of `channels` up to 4, the number of groups that DCNv3 has by default.
        offset_limit: keeps learned offsets within this many voxels, and the kernel points that they move inside the
            image; None, as published: no limit. All offsets start at zero; `dlka_med.layers.read_offsets` tells
            those of an input, `measure_deformation` how far they go.

    Raises:
        ValueError: for other values of `spatial_dims` or `deformation`, an even kernel size, or, where
            there are offsets, `offset_groups` that do not divide the channels.
    """

    def __init__(
        self,
        channels: int,
        spatial_dims: int,
        deformation: Deformation | None = None,
        *,
        kernel_size: int = 5,
        dilated_kernel_size: int = 7,
        dilation: int = 3,
        dense_kernel_size: int = 3,
        bias: bool = True,
        offset_groups: int | None = None,
        offset_limit: float | None = None,
    ) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        if deformation is None:
            deformation = DEFAULT_DEFORMATION[spatial_dims]
        check_choice("deformation", deformation, DEFORMATIONS)
        self.deformation = deformation
        sizes = {"kernel_size": kernel_size, "dilated_kernel_size": dilated_kernel_size}
        for name, size in (sizes | {"dense_kernel_size": dense_kernel_size}).items():
            if size < 1 or size % 2 == 0:
                raise ValueError(f"{name} must be odd, so that the output is as large as the input, got {size}")
        if offset_groups is None:
            offset_groups = most_groups(channels) if deformation == "dcnv3" else 1
        offsets = {"offset_groups": offset_groups, "offset_limit": offset_limit}

        def depthwise(size: int, step: int) -> nn.Module:
            if deformation == "dcnv3":
                return DCNv3(
                    channels,
                    size,
                    pad=step * (size // 2),
                    dilation=step,
                    group=offset_groups,
                    spatial_dims=spatial_dims,
                    offset_limit=offset_limit,
                )
            depthwise_of_step = {"dilation": step, "groups": channels, "bias": bias}
            if deformation == "depthwise":
                return DeformConv(spatial_dims, channels, channels, size, **depthwise_of_step, **offsets)
            if deformation == "wide_depthwise":
                return WideConv(
                    spatial_dims, channels, channels, size, offset_groups=offset_groups, **depthwise_of_step
                )
            return CONV[spatial_dims](channels, channels, size, padding=step * (size // 2), **depthwise_of_step)

        self.depthwise = depthwise(kernel_size, 1)
        self.dilated = depthwise(dilated_kernel_size, dilation)
        self.dense = nn.Identity()
        if deformation == "dense":
            self.dense = DeformConv(spatial_dims, channels, channels, dense_kernel_size, bias=bias, **offsets)
        elif deformation == "still_dense":
            self.dense = CONV[spatial_dims](
                channels, channels, dense_kernel_size, padding=dense_kernel_size // 2, bias=bias
            )
        elif deformation == "wide_dense":
            self.dense = WideConv(
                spatial_dims, channels, channels, dense_kernel_size, offset_groups=offset_groups, bias=bias
            )
        self.pointwise = CONV[spatial_dims](channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.pointwise(self.dense(self.dilated(self.depthwise(x))))


class LargeKernelAttention(nn.Module):
    """1x1 conv, GELU, gate by a large kernel, 1x1 conv, plus the input.

    x `(B, channels, *S)` -> the same shape, `len(S) == spatial_dims`.

    Args:
        channels, spatial_dims, deformation, **gate: of `LargeKernelGate`, which also says what is raised.
    """

    def __init__(self, channels: int, spatial_dims: int, deformation: Deformation | None = None, **gate: Any) -> None:
        super().__init__()
        self.gate = LargeKernelGate(channels, spatial_dims, deformation, **gate)
        self.project_in = CONV[spatial_dims](channels, channels, 1)
        self.project_out = CONV[spatial_dims](channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project_out(self.gate(F.gelu(self.project_in(x))))


def most_groups(channels: int, limit: int = 4) -> int:
    """The greatest divisor of `channels` that is not above `limit`."""
    return max(groups for groups in range(1, limit + 1) if channels % groups == 0)

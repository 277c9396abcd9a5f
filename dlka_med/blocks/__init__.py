"""The units that the networks are made of, 2D and 3D alike, channels-last in memory."""

from dlka_med.blocks.csp import C3_DCNv3_DLKA, DeformableBottleneck
from dlka_med.blocks.dlka_block import DLKABlock
from dlka_med.blocks.large_kernel_attention import LargeKernelAttention, LargeKernelGate
from dlka_med.blocks.patch import PatchDownsample, PatchExpand, PatchUpsample
from dlka_med.blocks.residual_conv import ResidualConv

__all__ = [
    "C3_DCNv3_DLKA",
    "DLKABlock",
    "DeformableBottleneck",
    "LargeKernelAttention",
    "LargeKernelGate",
    "PatchDownsample",
    "PatchExpand",
    "PatchUpsample",
    "ResidualConv",
]

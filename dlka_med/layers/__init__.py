"""Layers: the operators plus their parameters."""

from dlka_med.layers.dcnv3 import DCNv3, DCNv4
from dlka_med.layers.deform_conv import DeformConv
from dlka_med.layers.offsets import read_offsets

__all__ = ["DCNv3", "DCNv4", "DeformConv", "read_offsets"]

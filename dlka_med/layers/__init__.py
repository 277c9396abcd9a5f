"""Layers: the operators plus their parameters."""

from dlka_med.layers.dcnv3 import DCNv3, DCNv4
from dlka_med.layers.deform_conv import DeformConv
from dlka_med.layers.offsets import (
    Deformation,
    KernelPoints,
    deformable_layers,
    effects_of_layers,
    measure_deformation,
    offset_parameters,
    outputs_without,
    predicting_parts,
    read_offsets,
    visit_points,
    without_offsets,
)
from dlka_med.layers.wide_conv import WideConv

__all__ = [
    "DCNv3",
    "DCNv4",
    "DeformConv",
    "Deformation",
    "KernelPoints",
    "WideConv",
    "deformable_layers",
    "effects_of_layers",
    "measure_deformation",
    "offset_parameters",
    "outputs_without",
    "predicting_parts",
    "read_offsets",
    "visit_points",
    "without_offsets",
]

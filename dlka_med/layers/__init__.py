"""Layers: the operators plus their parameters."""

from dlka_med.layers.deform_conv import DeformConv

__all__ = ["DeformConv"]

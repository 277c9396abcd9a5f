"""Mathematics: tensors in, tensors out."""

from dlka_med.ops.deform_conv import deform_conv

__all__ = ["deform_conv"]

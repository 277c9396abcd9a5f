"""Two masks side by side: what must hold of them, where they lie, and which of them is empty."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

EMPTY_MASK_RULE = (
    "A structure absent from both reference and prediction is left out of the mean and counted (both_empty). "
    "A missed structure (missed) or one predicted where the reference has none (false_positive) scores "
    "0 in every ratio, as Dice, IoU and NSD, and the diagonal of the image in every distance, as HD95; its "
    "volume_error is -1 where it was missed and left out where it was predicted."
)

Mask = NDArray[np.bool_]
Status = Literal["ok", "missed", "false_positive", "both_empty"]


def status_of(prediction: Mask, reference: Mask) -> Status:
    """Which of the masks are empty: the case of `EMPTY_MASK_RULE`, or ok."""
    if prediction.any():
        return "ok" if reference.any() else "false_positive"
    return "missed" if reference.any() else "both_empty"


def bounding_box(*masks: Mask) -> tuple[slice, ...]:
    """The smallest box that holds every voxel of masks of one shape, not all of which are empty."""
    dims = masks[0].ndim
    box = [slice(None)] * dims
    # The axis that lies apart in memory goes first: what is left for the others is contiguous, and small.
    for axis in sorted(range(dims), key=lambda axis: -masks[0].strides[axis]):
        others = tuple(other for other in range(dims) if other != axis)
        found = np.flatnonzero(np.any([mask[tuple(box)].any(axis=others) for mask in masks], axis=0))
        box[axis] = slice(int(found[0]), int(found[-1]) + 1)
    return tuple(box)


def diagonal(shape: Sequence[int], spacing: Sequence[float]) -> float:
    """Length of the diagonal of an image, from corner to corner of its outermost voxels."""
    return math.hypot(*(size * step for size, step in zip(shape, spacing, strict=True)))


def check_masks(prediction: Mask, reference: Mask) -> None:
    """Raise unless both are boolean arrays of one shape."""
    for name, mask in (("prediction", prediction), ("reference", reference)):
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            found = getattr(mask, "dtype", type(mask).__name__)
            raise TypeError(f"{name} must be a boolean array, got {found}: write label_map == value")
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction {prediction.shape} and reference {reference.shape} differ in shape")


def check_spacing(spacing: Sequence[float], dims: int) -> None:
    """Raise unless there is one positive, finite spacing per axis."""
    if len(spacing) != dims or not all(math.isfinite(step) and step > 0 for step in spacing):
        raise ValueError(f"expected {dims} positive spacings, one per axis, got {tuple(spacing)}")

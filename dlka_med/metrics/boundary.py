"""Overlap of the boundaries of two masks."""

import math
from collections.abc import Sequence

from scipy import ndimage

from dlka_med.metrics.masks import Mask, bounding_box, check_masks, status_of
from dlka_med.metrics.overlap import iou

WIDTH = 0.02  # of the diagonal of the image


def boundary_iou(prediction: Mask, reference: Mask, width: int | None = None) -> float | None:
    """Boundary IoU (Cheng et al. 2021): IoU of what lies in each mask within `width` pixels of its contour.

    Distances are those of the authors' code, largest difference along an axis, and beyond the image's border is
    outside: a mask has its contour there, too. Large structures are judged by their outline, which IoU hardly sees;
    masks nowhere deeper than `width` have their IoU.

    Args:
        prediction, reference: boolean arrays of one shape, any number of dims.
        width: 1 or more; None: 2 % of the image's diagonal in pixels, rounded, at least 1.

    Returns:
        None if both are empty, 0 if one is (`EMPTY_MASK_RULE`).

    Raises:
        TypeError: a mask is not boolean.
        ValueError: the shapes differ, or the width is below 1.
    """
    check_masks(prediction, reference)
    width = default_width(prediction.shape) if width is None else width
    if width < 1:
        raise ValueError(f"width must be 1 or more, got {width}")
    if status_of(prediction, reference) == "both_empty":
        return None
    box = bounding_box(prediction, reference)
    return iou(boundary(prediction[box], width), boundary(reference[box], width))


def boundary(mask: Mask, width: int) -> Mask:
    """The voxels of a mask with one outside it at most `width` steps away, diagonal ones included."""
    return mask & ~ndimage.minimum_filter(mask, size=2 * width + 1, mode="constant", cval=0)


def default_width(shape: Sequence[int]) -> int:
    """2 % of the diagonal of an image in pixels, at least 1."""
    return max(1, round(WIDTH * math.hypot(*shape)))

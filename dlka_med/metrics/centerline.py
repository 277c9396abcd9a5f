"""Overlap of the centre lines of tubes: vessels, nerves, airways."""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from dlka_med.errors import InputError
from dlka_med.metrics.masks import Mask, bounding_box, check_masks, status_of


def cldice(prediction: Mask, reference: Mask) -> float | None:
    """clDice (Shit et al. 2021): whether the centre line of each mask lies in the other.

    The harmonic mean of the share of the prediction's skeleton inside the reference and of the reference's inside
    the prediction. See `skeleton`; scikit-image must be installed.

    Args:
        prediction, reference: boolean arrays of one shape, 2D or 3D.

    Returns:
        None if both are empty, 0 if one is (`EMPTY_MASK_RULE`).

    Raises:
        InputError: scikit-image is not installed.
        TypeError: a mask is not boolean.
        ValueError: the shapes differ, or are neither 2D nor 3D.
    """
    check_masks(prediction, reference)
    if prediction.ndim not in (2, 3):
        raise ValueError(f"clDice is that of 2D or 3D masks, got {prediction.ndim}D")
    match status_of(prediction, reference):
        case "both_empty":
            return None
        case "missed" | "false_positive":
            return 0.0
    precision, sensitivity = _share_inside(prediction, reference), _share_inside(reference, prediction)
    return 2 * precision * sensitivity / (precision + sensitivity) if precision + sensitivity else 0.0


def skeleton(mask: Mask) -> Mask:
    """The centre lines of a mask, one voxel wide: Zhang and Suen 1984 in 2D, Lee et al. 1994 in 3D.

    That of scikit-image in an empty surrounding, as volumes of one slice are thinned in another way. Of some compact
    blobs, as a cube of 4 voxels a side, it leaves nothing: their deepest voxel stands for them, so that every
    component has a skeleton.

    Raises:
        InputError: scikit-image is not installed.
    """
    lines = _inner(thinning()(np.pad(mask, 1)).astype(bool))
    components, count = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
    boxes = ndimage.find_objects(components)
    for lost in np.setdiff1d(np.arange(1, count + 1), components[lines]):
        box = boxes[lost - 1]
        depth = _inner(ndimage.distance_transform_edt(np.pad(components[box] == lost, 1)))
        lines[box][np.unravel_index(depth.argmax(), depth.shape)] = True
    return lines


def thinning() -> Callable[[Mask], Mask]:
    """`skeletonize` of scikit-image.

    Raises:
        InputError: scikit-image is not installed.
    """
    try:
        from skimage.morphology import skeletonize
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "skimage":
            raise
        raise InputError('clDice takes its skeletons from scikit-image: pip install "dlka_med[metrics]"') from error
    return skeletonize


def _inner(array: np.ndarray) -> np.ndarray:
    return array[(slice(1, -1),) * array.ndim]


def _share_inside(mask: Mask, other: Mask) -> float:
    """The share of a mask's skeleton that lies in another mask."""
    box = bounding_box(mask)
    return float(other[box][skeleton(mask[box])].mean())

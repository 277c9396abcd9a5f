"""Overlap and surface distance of two masks, in the unit of their spacing (mm, or pixels).

Surface: the voxels of a mask with a face neighbour outside it; beyond the image's border is outside.
Distances run between voxel centres. Empty masks follow one rule everywhere, `EMPTY_MASK_RULE`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

EMPTY_MASK_RULE = (
    "A structure absent from both reference and prediction is left out of the mean and counted (both_empty). "
    "A missed structure (missed) or one predicted where the reference has none (false_positive) scores "
    "Dice 0, NSD 0 and the diagonal of the image as HD95."
)

Mask = NDArray[np.bool_]
Status = Literal["ok", "missed", "false_positive", "both_empty"]


@dataclass(frozen=True)
class Scores:
    """All metrics of one mask pair; None where both masks are empty."""

    status: Status
    dice: float | None
    hd95: float | None
    nsd: float | None


def dice(prediction: Mask, reference: Mask) -> float | None:
    """`2 |A and B| / (|A| + |B|)`; None if both are empty.

    Args:
        prediction, reference: boolean arrays of one shape, any number of dims.

    Raises:
        TypeError: a mask is not boolean.
        ValueError: the shapes differ.
    """
    check_masks(prediction, reference)
    total = int(np.count_nonzero(prediction)) + int(np.count_nonzero(reference))
    return 2 * int(np.count_nonzero(prediction & reference)) / total if total else None


def hd95(prediction: Mask, reference: Mask, spacing: Sequence[float]) -> float | None:
    """The larger of both directed 95th percentiles of the surface distance.

    The convention of MONAI (`compute_hausdorff_distance(percentile=95)`) and of Metrics Reloaded; not the
    percentile of the pooled distances. Empty masks: `EMPTY_MASK_RULE`.

    Args:
        prediction, reference: boolean arrays of one shape, 2D or 3D.
        spacing: of the voxels along each axis, in any unit; the result is in the same.

    Raises:
        TypeError: a mask is not boolean.
        ValueError: shapes or the number of spacings differ, or a spacing is not positive.
    """
    return compare(prediction, reference, spacing).hd95


def nsd(prediction: Mask, reference: Mask, spacing: Sequence[float], tolerance: float = 1.0) -> float | None:
    """Normalised surface Dice: the share of both surfaces' voxels within `tolerance` of the other surface.

    Definition of Nikolov et al. 2018 with voxels counted rather than patches of area, as MONAI's
    `compute_surface_dice` does by default. Arguments, errors and empty masks as in `hd95`.
    """
    return compare(prediction, reference, spacing, tolerance).nsd


def compare(prediction: Mask, reference: Mask, spacing: Sequence[float], tolerance: float = 1.0) -> Scores:
    """All metrics at the price of one: the surfaces are found once. See `dice`, `hd95` and `nsd`."""
    check_masks(prediction, reference)
    check_spacing(spacing, prediction.ndim)
    if not tolerance >= 0:
        raise ValueError(f"tolerance must not be negative, got {tolerance}")
    overlap = dice(prediction, reference)
    if overlap is None:
        return Scores("both_empty", None, None, None)
    if not (prediction.any() and reference.any()):
        status = "missed" if reference.any() else "false_positive"
        return Scores(status, 0.0, diagonal(prediction.shape, spacing), 0.0)
    distances = surface_distances(prediction, reference, spacing)
    # Spacings come from float32 headers: 0.8 mm are 0.80000001, and must lie within a tolerance of 0.8 mm.
    close = sum(int(np.count_nonzero(distance <= tolerance * (1 + 1e-6))) for distance in distances)
    return Scores(
        "ok",
        overlap,
        max(float(np.percentile(distance, 95)) for distance in distances),
        close / sum(map(len, distances)),
    )


def surface_distances(
    prediction: Mask, reference: Mask, spacing: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distance of each surface voxel to the other surface: prediction -> reference, and back.

    Memory grows with the bounding boxes (bytes per voxel) and the number of surface voxels, not with the
    image.
    Neither mask may be empty.
    """
    surfaces = [surface(mask) for mask in (prediction, reference)]
    scale = np.asarray(spacing, dtype=np.float64)
    ours, theirs = (KDTree(points * scale, leafsize=32, balanced_tree=False) for points in surfaces)
    return theirs.query(ours.data)[0], ours.query(theirs.data)[0]


def surface(mask: Mask) -> NDArray[np.intp]:
    """Indices (N, ndim) of the voxels of a mask that is not empty with a face neighbour outside it."""
    box = bounding_box(mask)
    inside = mask[box]
    core = inside.copy(order="K")
    for axis in range(mask.ndim):
        ahead, behind = np.moveaxis(core, axis, 0), np.moveaxis(inside, axis, 0)
        ahead[1:] &= behind[:-1]
        ahead[:-1] &= behind[1:]
        ahead[0] = ahead[-1] = False
    return np.argwhere(inside & ~core) + [part.start for part in box]


def bounding_box(mask: Mask) -> tuple[slice, ...]:
    """The smallest box that holds every voxel of a mask that is not empty."""
    box: list[slice] = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        found = np.flatnonzero(mask.any(axis=others))
        box.append(slice(int(found[0]), int(found[-1]) + 1))
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

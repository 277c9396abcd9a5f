"""Every metric that is cheap, at the price of one."""

from collections.abc import Sequence
from dataclasses import dataclass

from dlka_med.metrics.boundary import boundary_iou, default_width
from dlka_med.metrics.masks import Mask, Status, bounding_box, check_masks, check_spacing, diagonal, status_of
from dlka_med.metrics.overlap import Counts
from dlka_med.metrics.surface import (
    check_tolerance,
    larger_95th_percentile,
    largest,
    pooled_mean,
    share_within,
    surface_distances,
)


@dataclass(frozen=True)
class Scores:
    """The metrics of one mask pair, each as the function of its name gives it.

    None where both masks are empty; `volume_error` where the reference is, and `boundary_iou` of volumes.
    """

    status: Status
    dice: float | None = None
    iou: float | None = None
    precision: float | None = None
    recall: float | None = None
    volume_error: float | None = None
    hd95: float | None = None
    hd: float | None = None
    assd: float | None = None
    nsd: float | None = None
    boundary_iou: float | None = None


def compare(
    prediction: Mask,
    reference: Mask,
    spacing: Sequence[float],
    tolerance: float = 1.0,
    *,
    shape: Sequence[int] | None = None,
) -> Scores:
    """All metrics at once: voxels are counted, surfaces and their distances found, once, where the masks are.

    Memory grows with the box that holds both masks, not with the image.

    Args:
        prediction, reference: boolean arrays of one shape, 2D or 3D.
        spacing: of the voxels along each axis, in any unit; the distances are in the same.
        tolerance: of NSD, in that unit.
        shape: of the image, of which the masks are a part that holds both of them; None: they are all of it.

    Raises:
        TypeError: a mask is not boolean.
        ValueError: shapes or the number of spacings differ, a spacing is not positive, or the tolerance is negative.
    """
    check_masks(prediction, reference)
    check_spacing(spacing, prediction.ndim)
    check_tolerance(tolerance)
    status = status_of(prediction, reference)
    if status == "both_empty":
        return Scores(status)
    shape, box = shape or prediction.shape, bounding_box(prediction, reference)
    prediction, reference = prediction[box], reference[box]
    counts = Counts.of(prediction, reference)
    if status == "ok":
        distances = surface_distances(prediction, reference, spacing)
        far = larger_95th_percentile(distances), largest(distances), pooled_mean(distances)
        close = share_within(distances, tolerance)
    else:
        far, close = (diagonal(shape, spacing),) * 3, 0.0
    return Scores(
        status,
        counts.dice,
        counts.iou,
        counts.precision,
        counts.recall,
        counts.volume_error,
        *far,
        close,
        boundary_iou(prediction, reference, default_width(shape)) if len(shape) == 2 else None,
    )

"""Masks in, numbers out: overlap, surface distance, boundaries, centre lines, lesions; probabilities: calibration.

Lengths are in the unit of the spacing (mm, or pixels). Empty masks follow one rule everywhere, `EMPTY_MASK_RULE`.
"""

from dlka_med.metrics.boundary import boundary_iou
from dlka_med.metrics.calibration import Reliability, near_foreground
from dlka_med.metrics.centerline import cldice
from dlka_med.metrics.compare import Scores, compare
from dlka_med.metrics.conventions import CONVENTIONS, Convention
from dlka_med.metrics.lesions import LesionScores, lesion_scores
from dlka_med.metrics.masks import (
    EMPTY_MASK_RULE,
    Mask,
    Status,
    bounding_box,
    check_masks,
    check_spacing,
    diagonal,
)
from dlka_med.metrics.overlap import dice, iou, precision, recall, volume_error
from dlka_med.metrics.surface import assd, hd, hd95, nsd, surface, surface_distances

__all__ = [
    "CONVENTIONS",
    "EMPTY_MASK_RULE",
    "Convention",
    "LesionScores",
    "Mask",
    "Reliability",
    "Scores",
    "Status",
    "assd",
    "boundary_iou",
    "bounding_box",
    "check_masks",
    "check_spacing",
    "cldice",
    "compare",
    "diagonal",
    "dice",
    "hd",
    "hd95",
    "iou",
    "lesion_scores",
    "near_foreground",
    "nsd",
    "precision",
    "recall",
    "surface",
    "surface_distances",
    "volume_error",
]

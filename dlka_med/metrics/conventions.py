"""What published tables report, where it differs from ours: their metrics and their rules for empty masks.

To be shown beside our own numbers, so that these can be compared with a table; the means of each are over what its
own rule leaves in.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dlka_med.metrics.masks import Mask, check_masks, status_of
from dlka_med.metrics.overlap import Counts, dice
from dlka_med.metrics.surface import hd95, nsd, surface_distances

BRATS_WORST = math.hypot(240, 240, 155)  # mm: the diagonal of every BraTS image


@dataclass(frozen=True)
class Convention:
    """How somebody else scores a mask pair.

    Attributes:
        rule: what is computed, and what becomes of empty masks.
        source: the paper, and the code that its tables come from.
        metrics: the keys that `score` returns.
        score: (prediction, reference, spacing, tolerance) -> value of each metric, None if the pair is left out of
            the mean. Arguments and errors as in `compare`.
    """

    rule: str
    source: str
    metrics: tuple[str, ...]
    score: Callable[[Mask, Mask, Sequence[float], float], dict[str, float | None]]


def _synapse_2d(
    prediction: Mask, reference: Mask, spacing: Sequence[float], tolerance: float
) -> dict[str, float | None]:
    check_masks(prediction, reference)
    match status_of(prediction, reference):
        case "ok":
            pooled = np.concatenate(surface_distances(prediction, reference, (1.0,) * prediction.ndim))
            return {"dice": dice(prediction, reference), "hd95": float(np.percentile(pooled, 95))}
        case "false_positive":
            return {"dice": 1.0, "hd95": 0.0}
    return {"dice": 0.0, "hd95": 0.0}


def _brats(prediction: Mask, reference: Mask, spacing: Sequence[float], tolerance: float) -> dict[str, float | None]:
    check_masks(prediction, reference)
    match status_of(prediction, reference):
        case "ok":
            return {"dice": dice(prediction, reference), "hd95": hd95(prediction, reference, spacing)}
        case "both_empty":
            return {"dice": 1.0, "hd95": 0.0}
    return {"dice": 0.0, "hd95": BRATS_WORST}


def _decathlon(
    prediction: Mask, reference: Mask, spacing: Sequence[float], tolerance: float
) -> dict[str, float | None]:
    return {"dice": dice(prediction, reference), "nsd": nsd(prediction, reference, spacing, tolerance)}


def _nnunet(prediction: Mask, reference: Mask, spacing: Sequence[float], tolerance: float) -> dict[str, float | None]:
    counts = Counts.of(prediction, reference)
    return {"dice": counts.dice, "iou": counts.iou}


CONVENTIONS: dict[str, Convention] = {
    "synapse-2d": Convention(
        rule=(
            "Dice, and as HD95 the 95th percentile of the distances of both surfaces pooled, in voxels, whatever the "
            "spacing. A structure predicted where the reference has none scores Dice 1 and HD95 0; one that was "
            "missed, or that neither has, Dice 0 and HD95 0. A missed structure thus improves the mean HD95."
        ),
        source="Chen et al., TransUNet, arXiv:2102.04306 (2021): utils.py of its code, with hd95 of medpy",
        metrics=("dice", "hd95"),
        score=_synapse_2d,
    ),
    "brats": Convention(
        rule=(
            "Dice and HD95 in mm, the larger of both directed percentiles. Where both masks are empty Dice 1 and "
            "HD95 0; where one is, Dice 0 and HD95 373.13, the diagonal of a BraTS image in mm. Rule of 2018 to 2022; "
            "from 2023 on BraTS scores lesion by lesion."
        ),
        source=(
            "Bakas et al., arXiv:1811.02629 (2018); values for empty masks as in Isensee et al., nnU-Net for Brain "
            "Tumor Segmentation, arXiv:2011.00848 (2020), whose code pools the distances; HD95 as in CaPTk"
        ),
        metrics=("dice", "hd95"),
        score=_brats,
    ),
    "decathlon": Convention(
        rule=(
            "Dice, and NSD at the tolerance of the task. Left out where both masks are empty, 0 where one is. The "
            "original NSD weighs by area, ours counts voxels; see `nsd`."
        ),
        source=(
            "Antonelli et al., Nature Communications 13:4128 (2022); Nikolov et al., arXiv:1809.04430 (2018): "
            "surface-distance, its code"
        ),
        metrics=("dice", "nsd"),
        score=_decathlon,
    ),
    "nnunet": Convention(
        rule="Dice and IoU of the voxels. Left out where both masks are empty, 0 where one is.",
        source="Isensee et al., Nature Methods 18:203 (2021): evaluate_predictions.py of nnU-Net v2",
        metrics=("dice", "iou"),
        score=_nnunet,
    ),
}

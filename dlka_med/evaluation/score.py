"""One case: every label's metrics."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dlka_med.data.grid import check_same_grid, with_one_unit
from dlka_med.errors import InputError
from dlka_med.evaluation.label_maps import LabelMap, read_label_map
from dlka_med.evaluation.pairing import LabelPairs
from dlka_med.metrics import Status, compare


@dataclass(frozen=True)
class LabelScore:
    """One label of one case: a row of `cases.csv`; the metrics are None where both masks are empty.

    `hd95` is in mm, for 2D images in pixels; these have no volume in ml.
    """

    case: str
    label: str
    status: Status
    dice: float | None
    hd95: float | None
    nsd: float | None
    reference_ml: float | None
    prediction_ml: float | None
    reference_voxels: int
    prediction_voxels: int


def score_case(
    case: str,
    prediction_path: Path,
    reference_path: Path,
    labels: LabelPairs | None,
    tolerance: float,
) -> list[LabelScore]:
    """Compare two label maps, label by label.

    Args:
        labels: values of the labels in either map; None: those found, called label_<value>.

    Raises:
        InputError: a file is damaged, the grids differ, or a value is not among those that its side declares.
    """
    prediction, reference = read_label_map(prediction_path), read_label_map(reference_path)
    ours, theirs = with_one_unit([prediction.grid, reference.grid])
    check_same_grid(ours, theirs)
    prediction, reference = replace(prediction, affine=ours.affine), replace(reference, affine=theirs.affine)
    if labels is None:
        values = values_of(prediction) | values_of(reference)
        named = {f"label_{value}": (value,) for value in sorted(values - {0})}
        labels = LabelPairs(named, named)
    else:
        check_values(prediction, labels.predicted, labels.ignore)
        check_values(reference, labels.referred, labels.ignore)
    predicted, spacing = prediction.flattened()
    referred, _ = reference.flattened()
    counted = np.True_ if labels.ignore is None else referred != labels.ignore
    rows = []
    for name in labels.names:
        ours = np.isin(predicted, labels.predicted[name]) & counted
        theirs = np.isin(referred, labels.referred[name]) & counted
        scores = compare(ours, theirs, spacing, tolerance)
        found, expected = int(np.count_nonzero(ours)), int(np.count_nonzero(theirs))
        ml = reference.voxel_ml
        rows.append(
            LabelScore(
                case,
                name,
                scores.status,
                scores.dice,
                scores.hd95,
                scores.nsd,
                None if ml is None else expected * ml,
                None if ml is None else found * ml,
                expected,
                found,
            )
        )
    return rows


def values_of(label_map: LabelMap) -> set[int]:
    """The values that occur."""
    return {int(value) for value in np.unique(label_map.array.ravel(order="K"))}


def check_values(label_map: LabelMap, labels: Mapping[str, tuple[int, ...]], ignore: int | None = None) -> None:
    """Raise `InputError` if a value is neither background nor to be ignored nor in `labels`."""
    unknown = sorted(values_of(label_map) - {0, ignore, *(value for values in labels.values() for value in values)})
    if unknown:
        known = ", ".join(f"{name} {' '.join(map(str, values))}" for name, values in labels.items())
        raise InputError(
            f"{label_map.path} holds the values {', '.join(map(str, unknown[:8]))}, which no label declares "
            f"(declared: background 0, {known})"
        )

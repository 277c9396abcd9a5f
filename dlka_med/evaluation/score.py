"""One case: every label's figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dlka_med.data.grid import check_same_grid, with_one_unit
from dlka_med.errors import InputError
from dlka_med.evaluation.label_maps import read_label_map
from dlka_med.evaluation.measures import MEASURES, Protocol
from dlka_med.evaluation.pairing import LabelPairs
from dlka_med.metrics import CONVENTIONS, Status, cldice, compare, lesion_scores

Boxes = Mapping[int, tuple[slice, ...]]


@dataclass(frozen=True)
class LabelScore:
    """One label of one case: a row of `cases.csv`.

    Args:
        values: by names of `MEASURES`; None where there is no such figure, as where both masks are empty.
        conventional: what the convention that was asked for makes of it; None: left out of its mean.
        reference_ml, prediction_ml: None of 2D images, whose pixels have no known size.
    """

    case: str
    label: str
    status: Status
    values: Mapping[str, float | None]
    reference_voxels: int = 0
    prediction_voxels: int = 0
    reference_ml: float | None = None
    prediction_ml: float | None = None
    conventional: Mapping[str, float | None] = field(default_factory=dict)


def score_case(
    case: str,
    prediction_path: Path,
    reference_path: Path,
    labels: LabelPairs | None,
    protocol: Protocol,
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
    predicted, spacing = prediction.flattened()
    referred, _ = reference.flattened()
    predicted_boxes, referred_boxes = boxes_of(predicted), boxes_of(referred)
    if labels is None:
        named = {f"label_{value}": (value,) for value in sorted({*predicted_boxes, *referred_boxes})}
        labels = LabelPairs(named, named)
    else:
        check_values(prediction.path, predicted_boxes, labels.predicted, labels.ignore)
        check_values(reference.path, referred_boxes, labels.referred, labels.ignore)
    rows = []
    for name in labels.names:
        values = labels.predicted[name], labels.referred[name]
        box = _around(predicted_boxes, values[0], referred_boxes, values[1], predicted.ndim)
        ours, theirs = _mask(predicted[box], values[0]), _mask(referred[box], values[1])
        if labels.ignore is not None:
            counted = referred[box] != labels.ignore
            ours, theirs = ours & counted, theirs & counted
        row = score_masks(case, name, ours, theirs, spacing, predicted.shape, protocol, reference.voxel_ml)
        rows.append(row)
    return rows


def score_masks(
    case: str,
    label: str,
    prediction: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    spacing: Sequence[float],
    shape: Sequence[int],
    protocol: Protocol,
    voxel_ml: float | None,
) -> LabelScore:
    """The figures of one mask pair.

    Args:
        prediction, reference: the part of the image that holds both.
        shape: of the image.
        voxel_ml: volume of a voxel; None of 2D images.
    """
    tolerance = protocol.tolerance_of(label)
    scores = compare(prediction, reference, spacing, tolerance, shape=shape)
    found, expected = int(np.count_nonzero(prediction)), int(np.count_nonzero(reference))
    values = {name: getattr(scores, name) for name in MEASURES if hasattr(scores, name)}
    error = scores.volume_error
    values["volume_error_percent"] = None if error is None else 100 * error
    values["volume_error_ml"] = None if voxel_ml is None or not found + expected else (found - expected) * voxel_ml
    if label in protocol.tubes:
        values["cldice"] = cldice(prediction, reference)
    if label in protocol.lesions:
        lesions = lesion_scores(prediction, reference, protocol.lesion_overlap)
        values |= {f"lesions_{side}": float(getattr(lesions, side)) for side in ("reference", "prediction", "matched")}
        values |= {f"lesion_{name}": getattr(lesions, name) for name in ("precision", "recall", "f1", "dice")}
    conventional = {}
    if protocol.convention is not None:
        conventional = CONVENTIONS[protocol.convention].score(prediction, reference, spacing, tolerance)
    ml = [None if voxel_ml is None else voxels * voxel_ml for voxels in (expected, found)]
    return LabelScore(case, label, scores.status, values, expected, found, *ml, conventional)


def absent(case: str, label: str, dims: int, protocol: Protocol) -> LabelScore:
    """A label that neither side of a case has."""
    nothing = np.zeros((1,) * dims, bool)
    return score_masks(
        case, label, nothing, nothing, (1.0,) * dims, nothing.shape, protocol, 0.0 if dims == 3 else None
    )


def boxes_of(array: NDArray[np.unsignedinteger]) -> Boxes:
    """The box around each value that occurs, but for 0."""
    found = ndimage.find_objects(array)
    return {value: box for value, box in enumerate(found, 1) if box is not None}


def check_values(
    path: Path, found: Mapping[int, object], labels: Mapping[str, tuple[int, ...]], ignore: int | None = None
) -> None:
    """Raise `InputError` if a value is neither background nor to be ignored nor in `labels`."""
    unknown = sorted(set(found) - {0, ignore, *(value for values in labels.values() for value in values)})
    if unknown:
        known = ", ".join(f"{name} {' '.join(map(str, values))}" for name, values in labels.items())
        raise InputError(
            f"{path} holds the values {', '.join(map(str, unknown[:8]))}, which no label declares "
            f"(declared: background 0, {known})"
        )


def _around(
    ours: Boxes, our_values: Sequence[int], theirs: Boxes, their_values: Sequence[int], dims: int
) -> tuple[slice, ...]:
    """The box that holds these values on both sides; one voxel if there are none."""
    boxes = [ours[value] for value in our_values if value in ours]
    boxes += [theirs[value] for value in their_values if value in theirs]
    if not boxes:
        return (slice(0, 1),) * dims
    return tuple(
        slice(min(part.start for part in axis), max(part.stop for part in axis)) for axis in zip(*boxes, strict=True)
    )


def _mask(values: NDArray[np.unsignedinteger], wanted: Sequence[int]) -> NDArray[np.bool_]:
    return values == wanted[0] if len(wanted) == 1 else np.isin(values, wanted)

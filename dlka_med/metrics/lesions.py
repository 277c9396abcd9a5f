"""Which lesions were found, and how well: the metrics of detection, one lesion one vote."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.optimize import linear_sum_assignment

from dlka_med.metrics.masks import Mask, bounding_box, check_masks, status_of


@dataclass(frozen=True)
class LesionScores:
    """Lesions of one mask pair; the ratios are None where there is no lesion on either side, 0 where on one.

    Attributes:
        reference, prediction, matched: numbers of lesions.
        precision, recall: matched lesions per predicted and per reference one.
        f1: their harmonic mean, `2 matched / (prediction + reference)`.
        dice: the sum of the matched pairs' Dice over the number of matched, missed and false lesions. As the panoptic
            quality of Kirillov et al. 2019, but with Dice for IoU, and missed and false ones counted whole, not half.
    """

    reference: int
    prediction: int
    matched: int
    precision: float | None
    recall: float | None
    f1: float | None
    dice: float | None


def lesion_scores(prediction: Mask, reference: Mask, threshold: float = 0.1, minimum: int = 1) -> LesionScores:
    """Match the lesions of two masks one to one, and count.

    A lesion is a connected component, through faces, edges and corners. Of all pairings in which each lesion has at
    most one partner, with an IoU of at least `threshold`, the one with the largest sum of IoU is taken (Kuhn 1955).

    Args:
        prediction, reference: boolean arrays of one shape, any number of dims.
        threshold: 0 to 1; what does not overlap is never a pair.
        minimum: lesions of fewer voxels are ignored, on both sides.

    Raises:
        TypeError: a mask is not boolean.
        ValueError: the shapes differ, or the threshold is not between 0 and 1.
    """
    check_masks(prediction, reference)
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be between 0 and 1, got {threshold}")
    if status_of(prediction, reference) == "both_empty":
        return LesionScores(0, 0, 0, None, None, None, None)
    box = bounding_box(prediction, reference)
    prediction, reference = prediction[box], reference[box]
    (found, found_sizes), (expected, expected_sizes) = _lesions(prediction), _lesions(reference)
    both = prediction & reference
    # One number for each pair: unique sorts them many times faster than columns of two.
    codes = found[both].astype(np.int64) * len(expected_sizes) + expected[both]
    codes, overlap = np.unique(codes, return_counts=True)
    pairs = np.stack(np.divmod(codes, len(expected_sizes)))
    sizes = np.stack([found_sizes[pairs[0]], expected_sizes[pairs[1]]])
    iou = overlap / (sizes.sum(axis=0) - overlap)
    eligible = np.flatnonzero((iou >= threshold) & (sizes >= minimum).all(axis=0))
    chosen = eligible[_best_pairing(pairs[:, eligible], iou[eligible])]
    return _scores(
        reference=int(np.count_nonzero(expected_sizes[1:] >= minimum)),
        prediction=int(np.count_nonzero(found_sizes[1:] >= minimum)),
        matched=len(chosen),
        dice=float((2 * overlap[chosen] / sizes[:, chosen].sum(axis=0)).sum()),
    )


def _scores(reference: int, prediction: int, matched: int, dice: float) -> LesionScores:
    if not reference + prediction:
        return LesionScores(0, 0, 0, None, None, None, None)
    return LesionScores(
        reference,
        prediction,
        matched,
        precision=matched / max(prediction, 1),
        recall=matched / max(reference, 1),
        f1=2 * matched / (prediction + reference),
        dice=dice / (prediction + reference - matched),
    )


def _lesions(mask: Mask) -> tuple[NDArray[np.integer], NDArray[np.intp]]:
    """Number of each voxel's lesion, from 1, and voxels of each lesion; those of number 0, background, are 0."""
    numbers, count = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
    return numbers, np.bincount(numbers[mask], minlength=count + 1)


def _best_pairing(pairs: NDArray[np.integer], iou: NDArray[np.float64]) -> NDArray[np.intp]:
    """Columns of `pairs` (2, N) that share no lesion and have the largest sum of IoU.

    Most lesions have one candidate alone. The others are assigned group by group, each of lesions that compete for
    one another's partners: a matrix of all lesions would be huge.
    """
    ours, theirs = (np.unique(side, return_inverse=True)[1] for side in pairs)
    alone = (np.bincount(ours)[ours] == 1) & (np.bincount(theirs)[theirs] == 1)
    chosen = np.flatnonzero(alone).tolist()
    for group in _groups(ours, theirs, np.flatnonzero(~alone)):
        row, column = (np.unique(side[group], return_inverse=True)[1] for side in (ours, theirs))
        matrix = sparse.coo_array((iou[group], (row, column))).toarray()
        best = set(zip(*linear_sum_assignment(matrix, maximize=True), strict=True))
        chosen += [pair for pair, *place in zip(group, row, column, strict=True) if tuple(place) in best]
    return np.array(chosen, dtype=np.intp)


def _groups(ours: NDArray[np.intp], theirs: NDArray[np.intp], pairs: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Pairs, as indices, in groups that share no lesion; `ours` and `theirs` are the two lesions of every pair."""
    if not len(pairs):
        return []
    ours, theirs = ours[pairs], theirs[pairs] + ours.max() + 1
    lesions = int(theirs.max()) + 1
    links = sparse.coo_array((np.ones(len(pairs)), (ours, theirs)), shape=(lesions, lesions))
    group = sparse.csgraph.connected_components(links, directed=False)[1][ours]
    order = np.argsort(group, kind="stable")
    return np.split(pairs[order], np.flatnonzero(np.diff(group[order])) + 1)

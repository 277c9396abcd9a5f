"""Which labels are taken for which others."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dlka_med.config.labels import LabelScheme
from dlka_med.evaluation.label_maps import read_label_map


def confusion(pairs: Iterable[tuple[Path, Path]], scheme: LabelScheme) -> NDArray[np.int64]:
    """Voxels of all cases, (K, K) by the class indices of reference and prediction; voxels to be ignored do not count.

    Args:
        pairs: predictions and references, on equal grids and with declared values.
        scheme: of both.
    """
    classes = len(scheme.values)
    counts = np.zeros((classes, classes), np.int64)
    for prediction, reference in pairs:
        found, expected = read_label_map(prediction).array, read_label_map(reference).array
        if scheme.ignore is not None:
            counted = expected != scheme.ignore
            found, expected = found[counted], expected[counted]
        places = [np.searchsorted(scheme.values, array).ravel().astype(np.int64) for array in (expected, found)]
        counts += np.bincount(places[0] * classes + places[1], minlength=classes**2).reshape(classes, classes)
    return counts


def taken_for(counts: NDArray[np.int64], names: Mapping[int, str]) -> list[tuple[str, str, float]]:
    """Label, what it was taken for, and the share of its voxels, the largest first; nothing of the background itself.

    Args:
        counts: as `confusion` gives them.
        names: by class index, that of the background included.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    found = [
        (names[row], names[column], float(shares[row, column]))
        for row in range(1, len(counts))
        for column in range(len(counts))
        if row != column and counts[row, column]
    ]
    return sorted(found, key=lambda one: -one[2])

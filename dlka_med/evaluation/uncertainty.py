"""How uncertain a network was of each voxel, and where it was wrong."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import log2
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dlka_med.config.labels import LabelScheme
from dlka_med.data.readers import reader_of
from dlka_med.errors import InputError
from dlka_med.evaluation.label_maps import read_label_map

LEVELS = 256  # of a map: 0 to 1 in steps of 1/255


@dataclass(frozen=True)
class Doubts:
    """Voxels by how uncertain the network was of them.

    Attributes:
        voxels: of each level, (`LEVELS`,).
        wrong: those of them that are not what the reference says.
        largest: entropy of the last level, in bits.
    """

    voxels: NDArray[np.int64]
    wrong: NDArray[np.int64]
    largest: float

    @property
    def bits(self) -> NDArray[np.float64]:
        """The entropy of each level."""
        return np.arange(LEVELS) * self.largest / (LEVELS - 1)

    def met(self, share: float) -> float | None:
        """The share of the wrong voxels that are among so large a share of all, the most uncertain first.

        Of voxels of one level so many are wrong as in all of it. None where nothing is wrong.
        """
        if not self.wrong.any():
            return None
        looked_at = np.concatenate([[0], np.cumsum(self.voxels[::-1])]) / self.voxels.sum()
        found = np.concatenate([[0], np.cumsum(self.wrong[::-1])]) / self.wrong.sum()
        kept = np.concatenate([[True], np.diff(looked_at) > 0])
        return float(np.interp(share, looked_at[kept], found[kept]))

    def below(self, bits: float) -> float | None:
        """The share of the wrong voxels whose entropy is less; None where nothing is wrong."""
        return float(self.wrong[self.bits < bits].sum() / self.wrong.sum()) if self.wrong.any() else None


def largest_entropy(scheme: LabelScheme) -> float:
    """What 1 stands for in a map, in bits: all labels are as likely, or whether a voxel is in a region or not."""
    return 1.0 if scheme.has_regions else log2(max(2, len(scheme.values)))


def read_uncertainty(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The levels of a map that `dlka predict --uncertainty` wrote.

    Args:
        shape: of the label map that it lies beside.

    Raises:
        InputError: the file is damaged, of another shape, or no such map.
    """
    (values,), _ = reader_of(path).image(path, ("uncertainty",))
    if values.shape != shape:
        raise InputError(f"{path} has the shape {values.shape}, but its label map {shape}: predict this case again")
    levels = np.rint(values * (LEVELS - 1)) if values.ndim == 3 else values
    if not ((levels >= 0) & (levels < LEVELS)).all():
        raise InputError(
            f"{path} has values from {values.min():g} to {values.max():g}, which is no map of dlka predict "
            "--uncertainty: move it away, or predict this case again"
        )
    return levels.astype(np.uint8)


def doubts(cases: Iterable[tuple[Path, Path, Path]], scheme: LabelScheme) -> Doubts:
    """Count the voxels of all cases; those to be ignored do not count.

    Of regions a voxel is wrong where it is in other regions than the reference says.

    Args:
        cases: prediction, reference and map of uncertainty of each, on equal grids and with declared values.
        scheme: of both.

    Raises:
        InputError: as in `read_uncertainty`.
    """
    voxels, wrong = np.zeros(LEVELS, np.int64), np.zeros(LEVELS, np.int64)
    kinds = _kinds(scheme)
    for prediction, reference, uncertainty in cases:
        found, expected = read_label_map(prediction).array, read_label_map(reference).array
        levels = read_uncertainty(uncertainty, found.shape)
        if scheme.ignore is not None:
            counted = expected != scheme.ignore
            found, expected, levels = found[counted], expected[counted], levels[counted]
        found, expected = (kinds[np.searchsorted(scheme.values, array)] for array in (found, expected))
        voxels += np.bincount(levels.ravel(), minlength=LEVELS)
        wrong += np.bincount(levels[found != expected], minlength=LEVELS)
    return Doubts(voxels, wrong, largest_entropy(scheme))


def _kinds(scheme: LabelScheme) -> NDArray[np.int64]:
    """A number for each class; classes of the same regions share it."""
    if not scheme.has_regions:
        return np.arange(len(scheme.values))
    within = [
        frozenset(name for name, held in scheme.targets.items() if at in held) for at in range(len(scheme.values))
    ]
    return np.array([within.index(one) for one in within])

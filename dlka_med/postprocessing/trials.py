"""What each step would do to a held-out prediction, told without doing it."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dlka_med.config.labels import IGNORED, LabelScheme
from dlka_med.inference.components import slabs
from dlka_med.inference.postprocess import CLASSES, Box, Step, find_parts, members, postprocess
from dlka_med.metrics import bounding_box

FEW_BITS = 1  # zlib's fastest way; label maps shrink to a hundredth all the same
PACKING = 5  # bytes per voxel while a prediction and its reference are cropped and compressed


@dataclass(frozen=True)
class Family:
    """Steps of which one at most is kept: on the components of a label (None: of all foreground), or on its holes."""

    label: str | None
    of_holes: bool = False

    def scored(self, scheme: LabelScheme) -> tuple[str, ...]:
        """Labels that such a step changes; its own is the first."""
        if self.label is None:
            return scheme.names
        others = tuple(name for name in scheme.names if name != self.label)
        return (self.label, *others) if scheme.has_regions else (self.label,)


@dataclass(frozen=True)
class Trial:
    """The parts of one map that a family of steps can change, and what each would change.

    Attributes:
        sizes: (n + 1,) voxels of each part, by number from 1.
        counts: (T, 3) voxels of prediction, of reference and of both, of each label that is scored.
        changes: (n + 1, T, 2) what the numbers of prediction and both gain where a part is changed.
        true, false: (n + 1,) components that touch the reference of their label, and that lie apart from it: the part
            itself, or what it is made of.
    """

    sizes: NDArray[np.int64]
    counts: NDArray[np.float64]
    changes: NDArray[np.float64]
    true: NDArray[np.int64]
    false: NDArray[np.int64]

    def dice(self, taken: NDArray[np.bool_]) -> NDArray[np.float64]:
        """(T,) where these parts are changed; 1 where prediction and reference are empty both."""
        change = self.changes[taken].sum(axis=0)
        prediction, both = self.counts[:, 0] + change[:, 0], self.counts[:, 2] + change[:, 1]
        whole = prediction + self.counts[:, 1]
        return np.divide(2 * both, whole, out=np.ones(len(whole)), where=whole > 0)


class HeldMap:
    """A prediction beside its reference, cropped to what either shows and compressed.

    Args:
        prediction, reference: class indices (*S), uint8; `IGNORED` in the reference counts nowhere.
        voxel: volume of a voxel.
        patient: whose it is.
    """

    def __init__(self, prediction: NDArray[np.uint8], reference: NDArray[np.uint8], voxel: float, patient: str):
        shown = prediction > 0, (reference > 0) & (reference != IGNORED)
        box = bounding_box(*shown) if shown[0].any() or shown[1].any() else (slice(0, 1),) * prediction.ndim
        self.voxel, self.patient = voxel, patient
        self._shape = prediction[box].shape
        self._prediction, self._reference = _packed(prediction[box]), _packed(reference[box])

    @property
    def prediction(self) -> NDArray[np.uint8]:
        return self._unpacked(self._prediction)

    @property
    def reference(self) -> NDArray[np.uint8]:
        return self._unpacked(self._reference)

    def change(self, steps: Sequence[Step], scheme: LabelScheme) -> None:
        """Do these steps to the prediction."""
        self._prediction = _packed(postprocess(self.prediction, steps, scheme, self.voxel))

    def _unpacked(self, content: bytes) -> NDArray[np.uint8]:
        return np.frombuffer(zlib.decompress(content), np.uint8).reshape(self._shape)


def confusion(prediction: NDArray[np.uint8], reference: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(256, 256) voxels of each class in the prediction and each in the reference."""
    pairs = np.zeros(CLASSES**2, np.int64)
    for rows in slabs(prediction.shape):
        codes = prediction[rows].astype(np.intp) * CLASSES + reference[rows]
        pairs += np.bincount(codes.reshape(-1), minlength=CLASSES**2)
    return pairs.reshape(CLASSES, CLASSES)


def try_family(
    family: Family,
    prediction: NDArray[np.uint8],
    reference: NDArray[np.uint8],
    scheme: LabelScheme,
    boxes: Sequence[Box | None],
    confused: NDArray[np.int64],
) -> Trial:
    """The trial of a family on one map.

    Args:
        boxes: in which each class of the prediction lies.
        confused: `confusion` of the two.
    """
    inside = [members(name, scheme) for name in family.scored(scheme)]
    known = np.delete(confused, IGNORED, axis=1), np.delete(np.arange(CLASSES), IGNORED)
    counts = np.array([_counted(*known, member) for member in inside])
    parts = find_parts(prediction, family.label, scheme, boxes, of_holes=family.of_holes)
    if parts is None:
        none = np.zeros(1, np.int64)
        return Trial(none, counts, np.zeros((1, len(inside), 2)), none, none)
    place = np.flatnonzero(parts.numbers)
    numbers, was, truth = (
        array.reshape(-1)[place] for array in (parts.numbers, prediction[parts.box], reference[parts.box])
    )
    sizes, number = parts.sizes, len(parts.sizes)
    hits = np.bincount(numbers[members(family.label, scheme)[truth]], minlength=number)
    seen = np.bincount(numbers[truth != IGNORED], minlength=number)
    true, false = hits > 0, (hits == 0) & (seen > 0)
    if family.label is None:
        # Of all labels and many components a table would be huge: what would go is one part.
        goes = Step("largest").takes(sizes, 1)
        true, false = (
            np.array([0, found[~goes].sum(), found[goes].sum()])[: min(number, 3)] for found in (true, false)
        )
        sizes = np.array([0, *np.sort(sizes[1:])[::-1][:2]])
        number, moved = len(sizes), goes[numbers]
        numbers, was, truth = np.full(moved.sum(), 2), was[moved], truth[moved]
    now, is_known = parts.becomes[was], truth != IGNORED
    changes = np.zeros((number, len(inside), 2))
    for index, member in enumerate(inside):
        change = (member[now].astype(np.int8) - member[was]) * is_known
        changes[:, index, 0] = np.bincount(numbers, weights=change, minlength=number)
        changes[:, index, 1] = np.bincount(numbers, weights=change * member[truth], minlength=number)
    return Trial(sizes, counts, changes, true.astype(np.int64), false.astype(np.int64))


def _counted(
    confused: NDArray[np.int64], columns: NDArray[np.intp], member: NDArray[np.bool_]
) -> tuple[float, float, float]:
    """Voxels of a label in the prediction, in the reference and in both."""
    truth = member[columns]
    return float(confused[member].sum()), float(confused[:, truth].sum()), float(confused[member][:, truth].sum())


def _packed(classes: NDArray[np.uint8]) -> bytes:
    return zlib.compress(classes.tobytes(), FEW_BITS)

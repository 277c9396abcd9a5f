"""Overlap of two masks, from the numbers of their voxels alone.

Of all functions here:

Args:
    prediction, reference: boolean arrays of one shape, any number of dims.

Raises:
    TypeError: a mask is not boolean.
    ValueError: the shapes differ.

Empty masks follow `EMPTY_MASK_RULE`; None is what is left out.
"""

from dataclasses import dataclass

import numpy as np

from dlka_med.metrics.masks import Mask, check_masks


@dataclass(frozen=True)
class Counts:
    """Numbers of voxels: of the prediction, of the reference, and of both at once."""

    prediction: int
    reference: int
    both: int

    @classmethod
    def of(cls, prediction: Mask, reference: Mask) -> "Counts":
        check_masks(prediction, reference)
        masks = (prediction, reference, prediction & reference)
        return cls(*(int(np.count_nonzero(mask)) for mask in masks))

    @property
    def dice(self) -> float | None:
        return self._share(2 * self.both, self.prediction + self.reference)

    @property
    def iou(self) -> float | None:
        return self._share(self.both, self.prediction + self.reference - self.both)

    @property
    def precision(self) -> float | None:
        return self._share(self.both, self.prediction)

    @property
    def recall(self) -> float | None:
        return self._share(self.both, self.reference)

    @property
    def volume_error(self) -> float | None:
        return (self.prediction - self.reference) / self.reference if self.reference else None

    def _share(self, part: int, whole: int) -> float | None:
        return part / max(whole, 1) if self.prediction or self.reference else None


def dice(prediction: Mask, reference: Mask) -> float | None:
    """`2 |P and R| / (|P| + |R|)` (Dice 1945)."""
    return Counts.of(prediction, reference).dice


def iou(prediction: Mask, reference: Mask) -> float | None:
    """Intersection over union, `|P and R| / |P or R|` (Jaccard 1912)."""
    return Counts.of(prediction, reference).iou


def precision(prediction: Mask, reference: Mask) -> float | None:
    """The share of the prediction that lies in the reference, `|P and R| / |P|`."""
    return Counts.of(prediction, reference).precision


def recall(prediction: Mask, reference: Mask) -> float | None:
    """The share of the reference that was predicted, `|P and R| / |R|`; also called sensitivity."""
    return Counts.of(prediction, reference).recall


def volume_error(prediction: Mask, reference: Mask) -> float | None:
    """`(|P| - |R|) / |R|`: below 0 for too small a prediction, wherever it lies; None if the reference is empty."""
    return Counts.of(prediction, reference).volume_error

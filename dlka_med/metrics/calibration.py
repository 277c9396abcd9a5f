"""How far probabilities can be believed: reliability diagram, calibration errors, Brier score, log-likelihood.

Most voxels of a scan lie far from any structure and are surely background, so that over all of them even a bad network
looks calibrated. `near_foreground` tells those that matter; Mehrtash et al. (IEEE TMI 2020) measure within bounding
boxes of the structures for the same reason.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from dlka_med.metrics.masks import Mask, bounding_box, check_masks

BINS = 15
MARGIN = 3  # voxels
LEAST = float(np.finfo(np.float64).tiny)  # A probability of 0 of what is there counts as this.

Counts = NDArray[np.float64]


@dataclass(frozen=True)
class Reliability:
    """The reliability diagram of some voxels, with their scores; `+` joins it with that of others.

    Bins are of equal width, ((m - 1) / M, m / M]; a confidence of 0 lies in the first. Figures are None without voxels.

    Attributes:
        voxels: in each bin.
        confidence: sum of the confidences in each bin.
        correct: voxels of each bin that are what they are said to be.
        nll_sum, brier_sum: over all voxels.
    """

    voxels: Counts
    confidence: Counts
    correct: Counts
    nll_sum: float
    brier_sum: float

    @classmethod
    def of(
        cls,
        probabilities: NDArray[np.floating],
        labels: NDArray[np.integer],
        *,
        target: int | None = None,
        weight: float = 1.0,
        bins: int = BINS,
        ignore_index: int | None = None,
    ) -> "Reliability":
        """The diagram of voxels whose classes exclude each other; a region is two classes, without and with it.

        Args:
            probabilities: (K, N), which add up to 1 over the K classes.
            labels: class indices (N,).
            target: None: the confidence is the probability of the likeliest class, and it is correct where this is the
                label (Guo et al., ICML 2017); a class index: its own probability, against how often it is the label
                (Naeini et al., AAAI 2015).
            weight: voxels that each of these stands for.
            ignore_index: label of voxels that do not count.

        Raises:
            ValueError: shapes do not fit, a label is no class, or a probability does not lie between 0 and 1.
        """
        if probabilities.ndim != 2 or labels.shape != probabilities.shape[1:]:
            raise ValueError(f"expected (K, N) and (N,), got {probabilities.shape} and {labels.shape}")
        if bins < 1:
            raise ValueError(f"bins must be positive, got {bins}")
        if ignore_index is not None:
            counted = labels != ignore_index
            probabilities, labels = probabilities[:, counted], labels[counted]
        if labels.size and not 0 <= labels.min() <= labels.max() < len(probabilities):
            raise ValueError(f"labels must be class indices below {len(probabilities)}, got {np.unique(labels)}")
        if not ((probabilities >= 0) & (probabilities <= 1 + 1e-6)).all():
            raise ValueError("probabilities must lie between 0 and 1")
        chances = probabilities.astype(np.float64)
        said = chances.argmax(axis=0) if target is None else np.full(labels.shape, target)
        confidence, correct = chances[said, np.arange(labels.size)], said == labels
        # Not linspace, whose k-th edge may differ from k / bins by rounding.
        place = (np.searchsorted(np.arange(bins + 1) / bins, confidence, side="left") - 1).clip(0, bins - 1)
        true = chances[labels, np.arange(labels.size)]
        brier = (chances**2).sum(axis=0) - 2 * true + 1
        return cls(
            weight * np.bincount(place, minlength=bins).astype(np.float64),
            weight * np.bincount(place, confidence, minlength=bins),
            weight * np.bincount(place, correct, minlength=bins),
            weight * float(-np.log(np.maximum(true, LEAST)).sum()),
            weight * float(brier.sum()),
        )

    @classmethod
    def empty(cls, bins: int = BINS) -> "Reliability":
        """Of no voxel, to begin a sum with."""
        return cls(np.zeros(bins), np.zeros(bins), np.zeros(bins), 0.0, 0.0)

    def __add__(self, other: "Reliability") -> "Reliability":
        return Reliability(
            self.voxels + other.voxels,
            self.confidence + other.confidence,
            self.correct + other.correct,
            self.nll_sum + other.nll_sum,
            self.brier_sum + other.brier_sum,
        )

    @property
    def total(self) -> float:
        """Number of voxels."""
        return float(self.voxels.sum())

    @property
    def means(self) -> tuple[Counts, Counts]:
        """Mean confidence and share of correct voxels in each bin; NaN in an empty one."""
        counted = np.where(self.voxels > 0, self.voxels, np.nan)
        return self.confidence / counted, self.correct / counted

    @property
    def ece(self) -> float | None:
        """Expected calibration error: the mean gap between confidence and accuracy, bins weighed by their voxels."""
        return float(np.abs(self.confidence - self.correct).sum()) / self.total if self.total else None

    @property
    def mce(self) -> float | None:
        """Maximum calibration error: the largest gap of a bin with voxels."""
        confidence, accuracy = self.means
        return float(np.nanmax(np.abs(confidence - accuracy))) if self.total else None

    @property
    def nll(self) -> float | None:
        """Mean negative log-likelihood of the labels, in nats."""
        return self.nll_sum / self.total if self.total else None

    @property
    def brier(self) -> float | None:
        """Mean squared distance between probabilities and label, summed over the classes: 0 to 2 (Brier 1950)."""
        return self.brier_sum / self.total if self.total else None


def near_foreground(prediction: Mask, reference: Mask, margin: int = MARGIN) -> Mask:
    """Voxels of either mask, and all up to `margin` voxels from one along every axis.

    Raises:
        TypeError: a mask is not boolean.
        ValueError: the shapes differ, or the margin is negative.
    """
    check_masks(prediction, reference)
    if margin < 0:
        raise ValueError(f"margin must not be negative, got {margin}")
    near = prediction | reference
    if near.any():
        box = tuple(slice(max(part.start - margin, 0), part.stop + margin) for part in bounding_box(near))
        near[box] = maximum_filter(near[box], 2 * margin + 1, mode="constant")
    return near

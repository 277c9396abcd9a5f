"""Voxels of a case, drawn on its own grid, from which the probabilities at any temperature can be told."""

import zlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, softmax
from torch import Tensor

from dlka_med.config.labels import IGNORED, LabelScheme
from dlka_med.data.prepare import Prepared
from dlka_med.inference.grids import corners, seen_box
from dlka_med.inference.restore import restore
from dlka_med.metrics import Reliability, near_foreground
from dlka_med.metrics.calibration import LEAST

VECTORS = 20_000  # of logits, that are kept of a case near the foreground, and as many far from it
BESIDE = 12  # bytes that are kept with each: its share and its labels
DRAWING = 16  # bytes per voxel of the case while some are drawn: its masks, and the places of all that may be


@dataclass(frozen=True)
class Sample:
    """Some voxels of a case, all near the foreground or all far from it.

    Probabilities are those that `Predictor.probabilities` gives: on a resampled grid they are interpolated, so that
    the logits of all prepared voxels about a native one are kept.

    Attributes:
        patient: the case's group, or the case itself.
        near: whether these voxels are near the foreground.
        logits: (C, K, N) float32 of C prepared voxels for each of N native ones.
        shares: (C, N) of these in the native voxel.
        labels: (1, N) class indices, or of K regions (K, N): whether the voxel belongs to each.
        weight: voxels of the case that each of these stands for.
        has_regions: whether the logits are those of regions.
    """

    patient: tuple[bool, str]
    near: bool
    logits: NDArray[np.float32]
    shares: NDArray[np.float64]
    labels: NDArray[np.uint8]
    weight: float
    has_regions: bool

    @property
    def size(self) -> int:
        """Number of voxels drawn."""
        return self.labels.shape[1]

    def probabilities(self, temperature: float) -> list[NDArray[np.float64]]:
        """Of the classes (K, N), or for each region of not belonging and belonging to it (2, N)."""
        scaled = self.logits.astype(np.float64) / temperature
        if not self.has_regions:
            return [self._mixed(softmax(scaled, axis=1))]
        outside, inside = self._mixed(expit(-scaled)), self._mixed(expit(scaled))
        return [np.stack(pair) for pair in zip(outside, inside, strict=True)]

    def nll(self, temperature: float) -> float:
        """Sum of the negative log-likelihood over the voxels that these stand for, in nats."""
        total, place = 0.0, np.arange(self.size)
        for chances, labels in zip(self.probabilities(temperature), self.labels, strict=True):
            total -= float(np.log(np.maximum(chances[labels, place], LEAST)).sum())
        return self.weight * total

    def reliability(self, temperature: float) -> list[Reliability]:
        """Of the likeliest class, or of each region by its own probability."""
        target = 1 if self.has_regions else None
        pairs = zip(self.probabilities(temperature), self.labels, strict=True)
        return [Reliability.of(chances, labels, target=target, weight=self.weight) for chances, labels in pairs]

    def _mixed(self, chances: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.einsum("ckn,cn->kn", chances, self.shares)


def draw(
    logits: Tensor, prepared: Prepared, scheme: LabelScheme, patient: tuple[bool, str], vectors: int = VECTORS
) -> list[Sample]:
    """Voxels near the foreground of prediction and reference, and voxels far from it, as many as there may be of each.

    Only voxels that the network saw are drawn, none that is to be ignored; the same ones in every call.

    Args:
        logits: (K, *S) on the prepared grid.
        prepared: with its label on the native grid.
        vectors: logits to keep of either kind of voxels, at most: so many voxels where the grids coincide.
    """
    grids, reference = (prepared.affine, prepared.native_affine), prepared.native_label
    shapes = tuple(logits.shape[1:]), prepared.native_shape
    prediction = restore(logits, *grids, prepared.native_shape, painted=scheme.painted)
    counted = np.zeros(reference.shape, bool)
    box = seen_box(*grids, *shapes)
    counted[box] = reference[box] != IGNORED
    near = near_foreground(prediction > 0, (reference > 0) & (reference != IGNORED))
    random = np.random.default_rng(zlib.crc32(prepared.case_id.encode()))
    samples = []
    for is_near in (True, False):
        places = np.flatnonzero(counted & (near == is_near))
        if not places.size:
            continue
        number = max(1, vectors // len(corners(*grids, *shapes, np.empty((0, len(shapes[0])), np.intp))[0]))
        drawn = np.sort(random.choice(places, min(number, places.size), replace=False))
        indices, shares = corners(*grids, *shapes, np.stack(np.unravel_index(drawn, reference.shape), axis=1))
        found = logits[(slice(None), *torch.from_numpy(np.moveaxis(indices, -1, 0)))].cpu().numpy()
        truth = reference.reshape(-1)[drawn]
        labels = [scheme.mask(name, truth) for name in scheme.names] if scheme.has_regions else [truth]
        samples.append(
            Sample(
                patient,
                is_near,
                found.transpose(1, 0, 2).astype(np.float32),
                shares,
                np.stack(labels).astype(np.uint8),
                places.size / drawn.size,
                scheme.has_regions,
            )
        )
    return samples

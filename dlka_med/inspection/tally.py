"""How far kernel points move, and where to, summed over windows and told by label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dlka_med.config.labels import IGNORED
from dlka_med.inspection.view import Window
from dlka_med.layers import KernelPoints

KEPT = 50_000  # lengths of a window that are kept for histograms
ALL = "all"


@dataclass
class Tally:
    """Displacements of the kernel points of some output positions, lengths in mm (of 2D images in pixels).

    Attributes:
        positions: that were counted.
        lengths: some of the displacements, evenly drawn.
    """

    positions: int = 0
    summed: NDArray[np.float64] | float = 0.0
    squared: NDArray[np.float64] | float = 0.0
    length: float = 0.0
    by_image: float = 0.0
    outside: float = 0.0
    outside_undeformed: float = 0.0
    at_limit: float = 0.0
    largest: float = 0.0
    lengths: list[NDArray[np.float64]] = field(default_factory=list)

    def add(self, moved: NDArray, flat: NDArray, shares: Sequence[NDArray], step: int) -> None:
        """Positions with their kernel points.

        Args:
            moved, flat: displacements (P, d, N) for the image, and for a flat one.
            shares: (P, N) which points lie outside, would lie outside unmoved, and are held at the limit.
            step: every how manieth length is kept.
        """
        if not moved.shape[2]:
            return
        length = np.linalg.norm(moved, axis=1)
        self.positions += moved.shape[2]
        self.summed, self.squared = self.summed + moved.sum(2), self.squared + np.square(moved).sum(2)
        self.length += length.mean(0).sum()
        self.by_image += np.linalg.norm(moved - flat, axis=1).mean(0).sum()
        outside, undeformed, at_limit = (share.mean(0).sum() for share in shares)
        self.outside, self.outside_undeformed = self.outside + outside, self.outside_undeformed + undeformed
        self.at_limit += at_limit
        self.largest = max(self.largest, float(length.max()))
        self.lengths.append(length.ravel()[::step])

    @property
    def figures(self) -> dict[str, float]:
        """Means over positions and kernel points.

        moved: length of the displacement. by_image: length of its difference from that in a flat image of the same
        mean. spread: deviation of a kernel point's displacement from position to position, root mean square.
        """
        if not self.positions:
            return {"positions": 0}
        count = self.positions
        variance = np.maximum(self.squared / count - np.square(self.summed / count), 0)
        kept = np.concatenate(self.lengths)
        return {
            "positions": count,
            "moved": self.length / count,
            "by_image": self.by_image / count,
            "spread": float(np.sqrt(variance.sum(1).mean())),
            "percentile_95": float(np.percentile(kept, 95)),
            "largest": self.largest,
            "outside": self.outside / count,
            "outside_undeformed": self.outside_undeformed / count,
            "at_limit": self.at_limit / count,
        }


def count(
    tallies: Mapping[str, Tally],
    points: KernelPoints,
    flat: KernelPoints,
    window: Window,
    names: Mapping[int, str],
    strides: Sequence[float],
    spacing: Sequence[float],
) -> None:
    """Add the kernel points of a layer for one window.

    Args:
        tallies: by label, and `ALL`.
        flat: of the window without content.
        names: of class indices.
        strides: voxels of the window per voxel of the layer's input, per axis.
        spacing: mm per voxel of the window.
    """
    scale = np.multiply(strides, spacing)
    homes = home_positions(points)  # (d, *S')
    nearest = [np.floor((at + 0.5) * step).astype(int) for at, step in zip(homes, strides, strict=True)]
    counted = np.ones(homes.shape[1:], bool)
    for at, part in zip(nearest, window.inside, strict=True):
        counted &= (at >= part.start) & (at < part.stop)
    clipped = tuple(at.clip(0, n - 1) for at, n in zip(nearest, window.labels.shape, strict=True))
    labels = np.where(counted, window.labels[clipped], IGNORED).ravel()
    moved, unmoved = (_displacements(each, scale) for each in (points, flat))
    outside = (points.outside(), points.outside(moved=False), points.at_limit())
    shares = [share[0].flatten(0, 1).flatten(1).cpu().numpy() for share in outside]
    step = max(moved[:, 0].size // KEPT, 1)
    for value, name in [(None, ALL), *names.items()]:
        chosen = counted.ravel() if value is None else labels == value
        tallies[name].add(moved[..., chosen], unmoved[..., chosen], [share[:, chosen] for share in shares], step)


def home_positions(points: KernelPoints) -> NDArray[np.float64]:
    """Where the kernel of each output position has its centre, (d, *S') in voxels of the layer's input."""
    return points.start[0].mean((0, 1)).cpu().numpy()


def _displacements(points: KernelPoints, scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """(P, d, N) in mm."""
    offsets = points.offsets[0].flatten(0, 1).flatten(2).cpu().numpy()
    return offsets * scale[None, :, None]

"""Where a network was how uncertain in slices, as paths of SVG."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dlka_med.report.outlines import outline

BANDS = (0.2, 0.5, 0.8)  # bits of entropy where each band begins
BUDGET = 50_000  # edges of pixels that the paths of a plane follow, each up to 4 bytes
SMOOTH = 256  # pixels along the longer side: slices of fewer are enlarged, so that thin bands hold together
FINENESS = ((3, 1), (2, 1), (1, 1), (1, 2), (1, 4), (1, 8))  # times a pixel is enlarged, pixels that are averaged


@dataclass(frozen=True)
class Bands:
    """What is drawn over the slices of a plane.

    Attributes:
        grid: rows and columns that the paths are of.
        paths: of each slice a path for each of `BANDS`, about all that is at least as uncertain.
    """

    grid: tuple[int, int]
    paths: list[list[str]]


def bands_of(slices: NDArray[np.floating], steps: Sequence[int]) -> Bands:
    """The bands of all slices, as fine as the budget allows.

    Args:
        slices: entropy in bits, (N, rows, columns), rows run down.
        steps: rows and columns of the slices that make one of the picture.
    """
    longest = max(size // step for size, step in zip(slices.shape[1:], steps, strict=True))
    for enlarged, joined in FINENESS:
        if enlarged > 1 and longest * enlarged > SMOOTH:
            continue
        resized = [_resized(one, steps, enlarged, joined) for one in slices]
        if sum(map(_edges, resized)) <= BUDGET:
            break
    return Bands(resized[0].shape, [[outline(one >= start) for start in BANDS] for one in resized])


def averaged(picture: NDArray, steps: Sequence[int]) -> NDArray:
    """Every block of so many rows and columns as its mean; what is left over at the end is cut away."""
    rows, columns = (size // step for size, step in zip(picture.shape, steps, strict=False))
    cut = picture[: rows * steps[0], : columns * steps[1]]
    blocks = cut.reshape(rows, steps[0], columns, steps[1], *picture.shape[2:])
    return blocks.mean(axis=(1, 3))


def _resized(entropy: NDArray, steps: Sequence[int], enlarged: int, joined: int) -> NDArray:
    coarse = averaged(entropy, steps)
    for axis, size in enumerate(coarse.shape):
        coarse = _joined(coarse, axis, max(1, size // joined))
    return coarse if enlarged == 1 else ndimage.zoom(coarse, enlarged, order=1, mode="nearest", grid_mode=True)


def _joined(picture: NDArray, axis: int, count: int) -> NDArray:
    """Means of so many runs of pixels along an axis, as long as each other but for one pixel, which are all of them."""
    ends = np.arange(count + 1) * picture.shape[axis] // count
    sums = np.add.reduceat(picture, ends[:-1], axis)
    return sums / np.diff(ends).reshape([-1 if other == axis else 1 for other in range(picture.ndim)])


def _edges(entropy: NDArray) -> int:
    """How many edges the bands have."""
    place = np.pad(np.digitize(entropy, BANDS), 1)
    return sum(int(np.abs(np.diff(place, axis=axis)).sum()) for axis in (0, 1))

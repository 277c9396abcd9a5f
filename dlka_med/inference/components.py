"""Connected parts of masks, numbered, with one number per voxel in memory and no more."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dlka_med.metrics import Mask

AT_ONCE = 2**22  # voxels: what indexes an array by numbers makes wider copies of them

Numbers = NDArray[np.int32]
Sizes = NDArray[np.int64]


def components(mask: Mask) -> tuple[Numbers, Sizes]:
    """Number of each voxel's component, from 1, 0 outside the mask; and voxels of each, by number.

    Components are connected through faces, edges and corners.
    """
    numbers = np.empty(mask.shape, np.int32)
    count = ndimage.label(mask, structure=np.ones((3,) * mask.ndim), output=numbers)
    return numbers, _sizes(numbers, count)


def holes(mask: Mask) -> tuple[Numbers, Sizes]:
    """Number of each voxel's hole, from 1, 0 elsewhere; and voxels of each, by number.

    A hole is what lies outside the mask and is connected through faces with no border of the array. (Outside of a mask
    whose components hold together at corners, only faces connect.)
    """
    numbers = np.empty(mask.shape, np.int32)
    count = ndimage.label(~mask, output=numbers)
    open_ones = {0}
    for axis in range(mask.ndim):
        for side in (0, -1):
            open_ones.update(np.unique(numbers.take(side, axis)).tolist())
    closed = np.ones(count + 1, bool)
    closed[list(open_ones)] = False
    new = np.where(closed, np.cumsum(closed), 0).astype(np.int32)
    for rows in slabs(mask.shape):
        numbers[rows] = new[numbers[rows]]
    return numbers, _sizes(numbers, int(closed.sum()))


def slabs(shape: tuple[int, ...]) -> Iterator[slice]:
    """Rows of an array along its first axis, some at a time."""
    step = max(1, AT_ONCE // max(1, int(np.prod(shape[1:]))))
    for start in range(0, shape[0], step):
        yield slice(start, start + step)


def _sizes(numbers: Numbers, count: int) -> Sizes:
    sizes = np.zeros(count + 1, np.int64)
    for rows in slabs(numbers.shape):
        sizes += np.bincount(numbers[rows].reshape(-1), minlength=count + 1)
    sizes[0] = 0
    return sizes

"""Parts of an image: the one that holds something, and pieces that are worked on one after the other."""

from collections.abc import Iterator
from math import prod

import numpy as np

SLAB_VOXELS = 2**18


def slabs(volume: np.ndarray) -> Iterator[np.ndarray]:
    """Views of an array (rows, ...) that follow each other along its first axis, so that copies of them stay small."""
    rows = max(1, SLAB_VOXELS // max(prod(volume.shape[1:]), 1))
    return (volume[start : start + rows] for start in range(0, len(volume), rows))


def whole_box(image: np.ndarray) -> tuple[list[int], list[int]]:
    """First and one past the last voxel along each axis of an image (C, *S)."""
    return [0] * (image.ndim - 1), list(image.shape[1:])


def foreground_box(image: np.ndarray) -> tuple[list[int], list[int]]:
    """First and one past the last voxel along each axis that is not 0 in all channels; of an empty image all."""
    bright = (image != 0).any(axis=0)
    spans = []
    for axis in range(bright.ndim):
        places = np.flatnonzero(bright.any(axis=tuple(other for other in range(bright.ndim) if other != axis)))
        if not places.size:
            return whole_box(image)
        spans.append((int(places[0]), int(places[-1]) + 1))
    starts, ends = zip(*spans, strict=True)
    return list(starts), list(ends)

"""The part of an image that holds something."""

import numpy as np


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

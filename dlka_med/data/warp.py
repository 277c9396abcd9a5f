"""Affine resampling of a training patch."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from scipy.ndimage import affine_transform

SLAB_VOXELS = 2**15


def warped(
    image: torch.Tensor, label: torch.Tensor, matrix: np.ndarray, size: Sequence[int], *, cubic: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Image (C, *source) and class indices (1, *source) at `matrix @ x` about the centres, x over a patch of `size`.

    The image is interpolated linearly, or by cubic splines, which blur less, within the range of each channel; a point
    gets the class that linear interpolation of all classes makes the greatest: that of the nearest voxel would move
    outlines by up to half a voxel. Linear ones take the same points, slab by slab, so that all stays in the processor's
    cache: several times faster than `affine_grid` and two calls of `grid_sample` in 3D.
    """
    if cubic:
        _, classes = warped(image[:0], label, matrix, size)
        return torch.from_numpy(np.stack([_spline(channel, matrix, size) for channel in image.numpy()])), classes
    first, *others = np.ogrid[tuple(slice(-(n - 1) / 2, n / 2) for n in size)]
    rows = max(SLAB_VOXELS // int(np.prod(size[1:])), 1)
    slabs = [
        _sample(image.numpy(), label.numpy(), matrix, [first[row : row + rows], *others])
        for row in range(0, size[0], rows)
    ]
    images, labels = zip(*slabs, strict=True)
    return torch.from_numpy(np.concatenate(images, axis=1)), torch.from_numpy(np.concatenate(labels)[None])


def _spline(channel: np.ndarray, matrix: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Cubic spline of a channel (*source), which overshoots at edges, cut to its range."""
    offset = (np.array(channel.shape) - 1) / 2 - matrix @ ((np.array(size) - 1) / 2)
    values = affine_transform(channel, matrix, offset, tuple(size), np.float32, order=3, mode="mirror")
    return values.clip(channel.min(), channel.max(), out=values)


def _sample(
    image: np.ndarray, label: np.ndarray, matrix: np.ndarray, grid: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Values (C, *slab) and classes (*slab) at `matrix @ grid`, an open grid in voxels from the centre."""
    source, dims = image.shape[1:], len(grid)
    steps = [int(np.prod(source[axis + 1 :])) for axis in range(dims)]
    lowest = np.int32(0)
    shares = []
    for axis, length in enumerate(source):
        parts = [points * weight for points, weight in zip(grid, matrix[axis], strict=True)]
        parts[0] += (length - 1) / 2
        share = sum(part.astype(np.float32) for part in parts)
        share.clip(0, length - 1, out=share)
        below = np.floor(share)
        np.minimum(below, max(length - 2, 0), out=below)
        share -= below
        lowest = lowest + below.astype(np.int32) * np.int32(steps[axis])
        shares.append(share)
    lowest = lowest.astype(np.intp)

    def interpolated(values: np.ndarray, axis: int) -> np.ndarray:
        if axis == dims:
            return values.take(lowest)
        here = interpolated(values, axis + 1)
        if source[axis] == 1:
            return here
        there = interpolated(values[steps[axis] :], axis + 1)
        there -= here
        there *= shares[axis]
        there += here
        return there

    values = np.empty((len(image), *lowest.shape), np.float32)
    for here, channel in zip(values, image, strict=True):
        here[...] = interpolated(channel.ravel(), 0)
    wide = [(step, share) for step, share, length in zip(steps, shares, source, strict=True) if length > 1]
    return values, _likeliest(label.ravel(), lowest, wide)


def _likeliest(classes: np.ndarray, lowest: np.ndarray, axes: Sequence[tuple[int, np.ndarray]]) -> np.ndarray:
    """The class of each point that has the greatest weight among the voxels around it.

    Args:
        classes: flat.
        lowest: where in them the first voxel around each point is.
        axes: for each, the step to the next voxel and the share of the way to it.
    """
    corners = list(product((0, 1), repeat=len(axes)))
    places = [sum(step for (step, _), is_far in zip(axes, corner, strict=True) if is_far) for corner in corners]
    found = classes.take(lowest)
    differs = np.zeros(found.shape, dtype=bool)
    for place in places[1:]:
        differs |= classes[place:].take(lowest) != found
    first = lowest[differs]
    around = np.stack([classes[place:].take(first) for place in places])
    weights = np.ones(around.shape, dtype=np.float32)
    for axis, (_, share) in enumerate(axes):
        far = share[differs]
        for weight, corner in zip(weights, corners, strict=True):
            weight *= far if corner[axis] else 1 - far
    total = np.stack([np.where(around == own, weights, 0).sum(0) for own in around])
    found[differs] = np.take_along_axis(around, total.argmax(0)[None], 0)[0]
    return found

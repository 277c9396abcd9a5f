"""Masks to compare: shapes, and 200 pairs of every kind that may go wrong."""

from dataclasses import dataclass

import numpy as np


def box(shape, start, stop):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
    return mask


def ball(shape, centre, radius, spacing):
    """Voxels within `radius` of `centre`, given in voxels; one radius, or one per axis, in the unit of the spacing."""
    grids = np.ogrid[tuple(slice(0, size) for size in shape)]
    radii = np.broadcast_to(radius, len(shape))
    return sum(((g - c) * s / r) ** 2 for g, c, s, r in zip(grids, centre, spacing, radii, strict=True)) <= 1


def blobs(shape, seed):
    """Two overlapping rough masks that touch the image's border."""
    generator = np.random.default_rng(seed)
    first = ball(shape, [0.35 * n for n in shape], 0.4 * min(shape), (1,) * len(shape))
    second = ball(shape, [0.5 * n for n in shape], 0.35 * min(shape), (1,) * len(shape))
    speckle = generator.random(shape) < 0.02
    return first ^ speckle, second


@dataclass(frozen=True)
class Pair:
    prediction: np.ndarray
    reference: np.ndarray
    spacing: tuple[float, ...]
    tolerance: float


KINDS = ("noise", "ball", "corner", "voxel", "full", "empty")


def mask_of(kind, shape, generator):
    if kind == "noise":
        return generator.random(shape) < generator.uniform(0.1, 0.8)
    if kind == "ball":
        centre = generator.uniform(0, shape)
        return ball(shape, centre, generator.uniform(1, max(shape) / 2 + 1), (1,) * len(shape))
    if kind == "corner":
        return box(shape, (0,) * len(shape), generator.integers(1, np.add(shape, 1)))
    mask = np.full(shape, kind == "full")
    if kind == "voxel":
        mask[tuple(generator.integers(0, shape))] = True
    return mask


def pair(seed):
    generator = np.random.default_rng(seed)
    dims = 2 + seed % 2
    shape = tuple(int(size) for size in generator.integers(1, 14 if dims == 2 else 8, dims))
    likely = (0.3, 0.25, 0.15, 0.1, 0.05, 0.15)
    reference, prediction = (mask_of(kind, shape, generator) for kind in generator.choice(KINDS, 2, p=likely))
    if generator.random() < 0.3:
        prediction = np.roll(reference, 1, axis=int(generator.integers(dims)))
    spacing = tuple(float(step) for step in generator.uniform(0.3, 4, dims))
    return Pair(prediction, reference, spacing, float(generator.uniform(0, 4)))


PAIRS = [pair(seed) for seed in range(200)]

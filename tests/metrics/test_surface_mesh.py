"""Voxels against triangles: what counting voxels between voxel centres costs in accuracy."""

import math

import numpy as np
import pytest
from scipy.spatial import KDTree

from dlka_med.metrics import compare, nsd
from tests.metrics.masks_at_random import ball

measure = pytest.importorskip("skimage.measure", reason='NOT TESTED: pip install "dlka_med[metrics]"')

SAMPLES = 10_000
SPACINGS = [(1.0, 1.0, 1.0), (0.7, 0.7, 0.7), (1.0, 1.0, 2.5), (3.0, 1.0, 1.0), (0.5, 0.8, 1.2), (0.8, 0.8, 5.0)]


def points_of_mesh(mask, spacing, generator):
    """Points spread evenly over the closed surface that marching cubes find, and its area."""
    corners, faces, *_ = measure.marching_cubes(np.pad(mask, 1).astype(np.float32), 0.5, spacing=spacing)
    triangles = corners[faces].astype(float)
    areas = np.linalg.norm(np.cross(*(triangles[:, i] - triangles[:, 0] for i in (1, 2))), axis=1) / 2
    drawn = triangles[generator.choice(len(triangles), SAMPLES, p=areas / areas.sum())]
    u, v = generator.random((2, SAMPLES, 1))
    u, v = np.where(u + v > 1, (1 - u, 1 - v), (u, v))
    return drawn[:, 0] + u * (drawn[:, 1] - drawn[:, 0]) + v * (drawn[:, 2] - drawn[:, 0]), areas.sum()


def ellipsoids(spacing, generator):
    """Two of 6 to 14 mm half axes, up to 4 mm apart in each direction."""
    radii = generator.uniform(6, 14, 3)
    others = radii * generator.uniform(0.8, 1.25, 3)
    shape = [
        int(2 * (max(pair) + 5) / step) + 3 for pair, step in zip(zip(radii, others, strict=True), spacing, strict=True)
    ]
    centre = np.array(shape) / 2 + generator.uniform(-0.5, 0.5, 3)
    shift = generator.uniform(-4, 4, 3) * generator.choice([0.2, 1]) / spacing
    return ball(shape, centre, radii, spacing), ball(shape, centre + shift, others, spacing)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_triangles(spacing, seed):
    """Distances in diagonals of a voxel; `dlka_med.metrics.surface` states what 240 such pairs differed by."""
    generator = np.random.default_rng(seed)
    masks = ellipsoids(spacing, generator)
    (ours, our_area), (theirs, their_area) = (points_of_mesh(mask, spacing, generator) for mask in masks)
    there, back = KDTree(theirs).query(ours)[0], KDTree(ours).query(theirs)[0]

    def pooled(of_ours, of_theirs):
        return (our_area * of_ours + their_area * of_theirs) / (our_area + their_area)

    voxel = math.hypot(*spacing)
    found = compare(*masks, spacing)
    assert found.hd == pytest.approx(max(there.max(), back.max()), abs=0.15 * voxel)
    assert found.hd95 == pytest.approx(max(np.percentile(d, 95) for d in (there, back)), abs=0.7 * voxel)
    assert found.assd == pytest.approx(pooled(there.mean(), back.mean()), abs=0.25 * voxel)
    for tolerance, allowed in ((0.5, 0.5), (1, 0.15), (2, 0.1)):
        near = pooled(*((distance <= tolerance * voxel).mean() for distance in (there, back)))
        assert nsd(*masks, spacing, tolerance * voxel) == pytest.approx(near, abs=allowed)

import math
import warnings

import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

from dlka_med.metrics import assd, compare, hd, hd95, nsd, surface, surface_distances
from tests.metrics import definitions
from tests.metrics.masks_at_random import ball, blobs, box

CASES = [((17, 23), (0.7, 1.9)), ((11, 9, 13), (0.8, 0.8, 3.0)), ((12, 13, 7), (1.0, 1.0, 1.0))]


@pytest.mark.parametrize(("shape", "spacing"), CASES)
@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_every_pair_of_surface_voxels(shape, spacing, seed):
    masks = blobs(shape, seed)
    there, back = (definitions.distances(mask, other, spacing) for mask, other in (masks, masks[::-1]))
    ours, theirs = surface_distances(*masks, spacing)
    np.testing.assert_allclose(np.sort(ours), np.sort(there))
    np.testing.assert_allclose(np.sort(theirs), np.sort(back))


@pytest.mark.parametrize(("shape", "spacing"), CASES)
def test_agrees_with_monai(shape, spacing):
    masks = blobs(shape, 2)
    tensors = [torch.tensor(mask)[None, None].float() for mask in masks]
    options = {"include_background": True, "spacing": spacing}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        far = compute_hausdorff_distance(*tensors, percentile=95, **options)
        farthest = compute_hausdorff_distance(*tensors, **options)
        mean = compute_average_surface_distance(*tensors, symmetric=True, **options)
        near = compute_surface_dice(*tensors, [1.05], **options)
    assert hd95(*masks, spacing) == pytest.approx(far.item(), rel=1e-5)
    assert hd(*masks, spacing) == pytest.approx(farthest.item(), rel=1e-5)
    assert assd(*masks, spacing) == pytest.approx(mean.item(), rel=1e-5)
    assert nsd(*masks, spacing, 1.05) == pytest.approx(near.item(), rel=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shift", [1, 2])
def test_shifted_cubes_in_closed_form(axis, shift):
    """A cube of side n moved by `shift` voxels overlaps by n - shift; no distance exceeds the shift."""
    spacing, n, start = (0.8, 1.5, 3.0), 10, [5, 5, 5]
    moved = [s + shift * (a == axis) for a, s in enumerate(start)]
    reference = box((24,) * 3, start, [s + n for s in start])
    prediction = box((24,) * 3, moved, [s + n for s in moved])
    step = shift * spacing[axis]
    found = compare(prediction, reference, spacing, tolerance=step)
    assert found.dice == pytest.approx((n - shift) / n)
    assert found.nsd == 1
    assert (found.hd, found.hd95) == pytest.approx((step, step))
    assert nsd(prediction, reference, spacing, 0) < 1


def test_shifted_lines_in_closed_form():
    """Of two rows of 10 pixels, 3 apart along themselves, 7 overlap; the ends are 1, 2 and 3 away."""
    masks = box((5, 30), (2, 8), (3, 18)), box((5, 30), (2, 5), (3, 15))
    assert nsd(*masks, (1.0, 2.0), 0.5) == pytest.approx(14 / 20)
    assert nsd(*masks, (1.0, 2.0), 2.0) == pytest.approx(16 / 20)
    assert nsd(*masks, (1.0, 2.0), 6.0) == 1
    assert hd95(*masks, (1.0, 2.0)) == pytest.approx(np.percentile([0] * 7 + [2, 4, 6], 95))
    assert hd(*masks, (1.0, 2.0)) == 6
    assert assd(*masks, (1.0, 2.0)) == pytest.approx((2 + 4 + 6) / 10)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 0.5, 1.25)])
def test_concentric_spheres_in_closed_form(spacing):
    """Radii R and r in mm: volumes give Dice, all distances are R - r up to a voxel's diagonal."""
    shape = [int(50 / s) for s in spacing]
    centre = [size / 2 for size in shape]
    large, small = (ball(shape, centre, radius, spacing) for radius in (20, 15))
    voxel = math.hypot(*spacing)
    found = compare(small, large, spacing, tolerance=5 + voxel)
    assert found.dice == pytest.approx(2 * 15**3 / (15**3 + 20**3), rel=0.01)
    assert (found.hd95, found.assd) == pytest.approx((5, 5), abs=voxel)
    assert found.nsd == 1
    assert nsd(small, large, spacing, 5 - voxel) < 0.05


def test_the_larger_direction_counts_and_order_does_not():
    """One far speck of the prediction reaches the 95th percentile of its own direction only."""
    reference = box((40, 6), (0, 0), (4, 4))
    prediction = reference | box((40, 6), (30, 0), (34, 4))
    assert hd95(prediction, reference, (1, 1)) > 20
    for metric in (hd, hd95, assd):
        assert metric(prediction, reference, (1, 1)) == metric(reference, prediction, (1, 1))
    assert max(surface_distances(reference, prediction, (1, 1))[0]) == 0


def test_the_mean_is_over_voxels_not_over_directions():
    """A pixel 7 beside a row of 9: the mean of 1 + 10 distances is not that of both directions' means."""
    reference = box((3, 30), (1, 0), (2, 9))
    prediction = reference | box((3, 30), (1, 15), (2, 16))
    assert assd(prediction, reference, (1, 1)) == pytest.approx(7 / 19)


def test_distances_within_float32_of_the_tolerance_are_within_it():
    reference, prediction = box((9, 9), (2, 2), (6, 6)), box((9, 9), (3, 2), (7, 6))
    assert nsd(prediction, reference, (float(np.float32(0.8)), 1.0), 0.8) == 1


def test_empty_masks_follow_the_rule():
    full, empty, spacing = box((4, 5, 6), (1, 1, 1), (3, 3, 3)), np.zeros((4, 5, 6), bool), (1.0, 2.0, 0.5)
    length = pytest.approx(math.sqrt(4**2 + 10**2 + 3**2))
    for metric in (hd, hd95, assd):
        assert metric(empty, empty, spacing) is None
        assert metric(empty, full, spacing) == metric(full, empty, spacing) == length
    assert nsd(empty, empty, spacing) is None
    assert nsd(empty, full, spacing) == nsd(full, empty, spacing) == 0


@pytest.mark.parametrize("shape", [(7,), (7, 8), (5, 6, 7), (1, 6, 7)])
def test_surface_is_that_of_the_definition(shape):
    mask = np.random.default_rng(3).random(shape) < 0.7
    assert sorted(map(tuple, surface(mask))) == definitions.surface(mask)


def test_a_negative_tolerance_is_refused():
    mask = np.ones((3, 3), bool)
    for tolerance in (-1, math.nan):
        with pytest.raises(ValueError, match="tolerance"):
            nsd(mask, mask, (1, 1), tolerance)

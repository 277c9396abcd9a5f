import itertools
import math
import tracemalloc
import warnings

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice

from dlka_med.metrics import Scores, compare, diagonal, dice, hd95, nsd, surface, surface_distances


def box(shape, start, stop):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
    return mask


def ball(shape, centre, radius, spacing):
    grids = np.ogrid[tuple(slice(0, size) for size in shape)]
    squares = [((g - c) * s) ** 2 for g, c, s in zip(grids, centre, spacing, strict=True)]
    return sum(squares) <= radius**2


def blobs(shape, seed):
    """Two overlapping rough masks that touch the image's border."""
    generator = np.random.default_rng(seed)
    first = ball(shape, [0.35 * n for n in shape], 0.4 * min(shape), (1,) * len(shape))
    second = ball(shape, [0.5 * n for n in shape], 0.35 * min(shape), (1,) * len(shape))
    speckle = generator.random(shape) < 0.02
    return first ^ speckle, second


def slow_surface(mask):
    """Coordinates of surface voxels, one voxel at a time."""
    found = []
    for point in map(tuple, np.argwhere(mask)):
        for axis, step in itertools.product(range(mask.ndim), (-1, 1)):
            near = list(point)
            near[axis] += step
            if not 0 <= near[axis] < mask.shape[axis] or not mask[tuple(near)]:
                found.append(point)
                break
    return np.array(found)


def slow_distances(prediction, reference, spacing):
    """The full matrix of distances between surface voxels."""
    ours, theirs = (slow_surface(mask) * np.array(spacing) for mask in (prediction, reference))
    matrix = np.sqrt(((ours[:, None] - theirs[None]) ** 2).sum(-1))
    return matrix.min(1), matrix.min(0)


CASES = [((17, 23), (0.7, 1.9)), ((11, 9, 13), (0.8, 0.8, 3.0)), ((12, 13, 7), (1.0, 1.0, 1.0))]


@pytest.mark.parametrize(("shape", "spacing"), CASES)
@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_the_full_distance_matrix(shape, spacing, seed):
    prediction, reference = blobs(shape, seed)
    there, back = slow_distances(prediction, reference, spacing)
    found = compare(prediction, reference, spacing, tolerance=1.0)
    both = np.concatenate([there, back])
    assert found.hd95 == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))
    assert found.nsd == pytest.approx((both <= 1.0 + 1e-6).mean())
    assert found.dice == pytest.approx(2 * (prediction & reference).sum() / (prediction.sum() + reference.sum()))
    ours, theirs = surface_distances(prediction, reference, spacing)
    np.testing.assert_allclose(np.sort(ours), np.sort(there))
    np.testing.assert_allclose(np.sort(theirs), np.sort(back))


@pytest.mark.parametrize(("shape", "spacing"), CASES)
def test_agrees_with_monai(shape, spacing):
    prediction, reference = blobs(shape, 2)
    tensors = [torch.tensor(mask)[None, None].float() for mask in (prediction, reference)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        far = compute_hausdorff_distance(*tensors, include_background=True, percentile=95, spacing=spacing)
        near = compute_surface_dice(*tensors, [1.05], include_background=True, spacing=spacing)
    assert hd95(prediction, reference, spacing) == pytest.approx(far.item(), rel=1e-5)
    assert nsd(prediction, reference, spacing, 1.05) == pytest.approx(near.item(), rel=1e-5)


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
    assert hd95(prediction, reference, spacing) == pytest.approx(step)
    assert nsd(prediction, reference, spacing, 0) < 1


def test_nsd_of_shifted_lines_in_closed_form():
    """Of two rows of 10 pixels, 3 apart along themselves, 7 overlap; the ends are 1, 2 and 3 away."""
    reference, prediction = box((5, 30), (2, 5), (3, 15)), box((5, 30), (2, 8), (3, 18))
    assert nsd(prediction, reference, (1.0, 2.0), 0.5) == pytest.approx(14 / 20)
    assert nsd(prediction, reference, (1.0, 2.0), 2.0) == pytest.approx(16 / 20)
    assert nsd(prediction, reference, (1.0, 2.0), 6.0) == 1
    assert hd95(prediction, reference, (1.0, 2.0)) == pytest.approx(np.percentile([0] * 7 + [2, 4, 6], 95))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 0.5, 1.25)])
def test_concentric_spheres_in_closed_form(spacing):
    """Radii R and r in mm: volumes give Dice, all distances are R - r up to a voxel's diagonal."""
    shape = [int(50 / s) for s in spacing]
    centre = [size / 2 for size in shape]
    large, small = (ball(shape, centre, radius, spacing) for radius in (20, 15))
    voxel = math.hypot(*spacing)
    found = compare(small, large, spacing, tolerance=5 + voxel)
    assert found.dice == pytest.approx(2 * 15**3 / (15**3 + 20**3), rel=0.01)
    assert found.hd95 == pytest.approx(5, abs=voxel)
    assert found.nsd == 1
    assert nsd(small, large, spacing, 5 - voxel) < 0.05


@pytest.mark.parametrize("shape", [(6, 9), (6, 9, 4)])
def test_equal_masks_are_perfect(shape):
    mask = blobs(shape, 0)[0]
    assert compare(mask, mask.copy(), (0.3,) * len(shape), 0) == Scores("ok", 1, 0, 1)
    assert compare(np.ones(shape, bool), np.ones(shape, bool), (1,) * len(shape)) == Scores("ok", 1, 0, 1)


def test_the_larger_direction_counts_and_order_does_not():
    """One far speck of the prediction reaches the 95th percentile of its own direction only."""
    reference = box((40, 6), (0, 0), (4, 4))
    prediction = reference | box((40, 6), (30, 0), (34, 4))
    assert hd95(prediction, reference, (1, 1)) > 20
    assert hd95(prediction, reference, (1, 1)) == hd95(reference, prediction, (1, 1))
    assert max(surface_distances(reference, prediction, (1, 1))[0]) == 0


def test_distances_within_float32_of_the_tolerance_are_within_it():
    reference, prediction = box((9, 9), (2, 2), (6, 6)), box((9, 9), (3, 2), (7, 6))
    assert nsd(prediction, reference, (float(np.float32(0.8)), 1.0), 0.8) == 1


def test_empty_masks_follow_the_rule():
    full, empty, spacing = box((4, 5, 6), (1, 1, 1), (3, 3, 3)), np.zeros((4, 5, 6), bool), (1.0, 2.0, 0.5)
    length = math.sqrt(4**2 + 10**2 + 3**2)
    assert diagonal((4, 5, 6), spacing) == pytest.approx(length)
    assert compare(empty, empty, spacing) == Scores("both_empty", None, None, None)
    assert compare(empty, full, spacing) == Scores("missed", 0, pytest.approx(length), 0)
    assert compare(full, empty, spacing) == Scores("false_positive", 0, pytest.approx(length), 0)
    assert dice(empty, empty) is None
    assert hd95(empty, empty, spacing) is None
    assert nsd(empty, empty, spacing) is None
    assert (dice(empty, full), nsd(full, empty, spacing)) == (0, 0)


@pytest.mark.parametrize("shape", [(7,), (7, 8), (5, 6, 7), (1, 6, 7)])
def test_surface_is_that_of_the_definition(shape):
    mask = np.random.default_rng(3).random(shape) < 0.7
    assert sorted(map(tuple, surface(mask))) == sorted(map(tuple, slow_surface(mask)))


def test_memory_is_bounded_by_the_structure():
    """A small structure in a large volume takes a fraction of one float32 copy of it."""
    shape = (300, 300, 300)
    reference, prediction = box(shape, (100,) * 3, (140,) * 3), box(shape, (101,) * 3, (139,) * 3)
    tracemalloc.start()
    compare(prediction, reference, (1, 1, 1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * reference.nbytes


@pytest.mark.parametrize(
    ("prediction", "reference", "spacing", "error", "message"),
    [
        (np.zeros((3, 3)), np.zeros((3, 3), bool), (1, 1), TypeError, "prediction must be a boolean"),
        (np.zeros((3, 3), bool), np.full((3, 3), np.nan), (1, 1), TypeError, "reference must be a boolean"),
        (np.zeros((3, 3), bool), [[True]], (1, 1), TypeError, "list"),
        (np.zeros((3, 3), bool), np.zeros((3, 4), bool), (1, 1), ValueError, "differ in shape"),
        (np.zeros((3, 3), bool), np.zeros((3, 3), bool), (1, 1, 1), ValueError, "2 positive spacings"),
        (np.zeros((3, 3), bool), np.zeros((3, 3), bool), (1, 0), ValueError, "positive"),
        (np.zeros((3, 3), bool), np.zeros((3, 3), bool), (1, math.nan), ValueError, "positive"),
    ],
)
def test_wrong_input_is_named(prediction, reference, spacing, error, message):
    with pytest.raises(error, match=message):
        hd95(prediction, reference, spacing)


def test_a_negative_tolerance_is_refused():
    mask = np.ones((3, 3), bool)
    for tolerance in (-1, math.nan):
        with pytest.raises(ValueError, match="tolerance"):
            nsd(mask, mask, (1, 1), tolerance)

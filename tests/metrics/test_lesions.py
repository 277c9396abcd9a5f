import tracemalloc
from dataclasses import asdict

import numpy as np
import pytest

from dlka_med.metrics import LesionScores, lesion_scores
from tests.metrics import definitions
from tests.metrics.masks_at_random import box


def lines(*spans, length=60):
    """Bars on one line, each a lesion."""
    mask = np.zeros((1, length), bool)
    for start, stop in spans:
        mask[0, start:stop] = True
    return mask


def scattered(shape, generator):
    """A few boxes and specks on either side, many near one of the other."""
    masks = np.zeros((2, *shape), bool)
    for _ in range(int(generator.integers(0, 10))):
        start = generator.integers(0, np.subtract(shape, 4))
        for mask in masks:
            corner = start + generator.integers(-1, 2, len(shape)).clip(-start.min())
            size = generator.integers(1, 5, len(shape))
            mask[tuple(map(slice, corner, corner + size))] = True
    return masks


@pytest.mark.parametrize("threshold", [0, 0.1, 0.3])
@pytest.mark.parametrize("minimum", [1, 3])
def test_agrees_with_every_one_to_one_assignment(threshold, minimum):
    generator = np.random.default_rng(7)
    matched = set()
    for index in range(60):
        masks = scattered((31, 33) if index % 2 else (13, 14, 15), generator)
        found = asdict(lesion_scores(*masks, threshold, minimum))
        allowed = definitions.lesion_scores(*masks, threshold, minimum)
        assert any(found == pytest.approx(numbers, abs=1e-6) for numbers in allowed), index
        matched.add(found["matched"])
    assert len(matched) > 3


def test_lesions_that_touch_by_a_corner_are_one():
    for dims in (2, 3):
        mask = box((6,) * dims, (0,) * dims, (2,) * dims) | box((6,) * dims, (2,) * dims, (4,) * dims)
        assert lesion_scores(mask, mask) == LesionScores(1, 1, 1, 1, 1, 1, 1)


def test_the_larger_half_of_a_split_lesion_is_its_match():
    """A lesion of 20 found as 12 and 6: Dice 2 * 12 / 32 of the one, the other is false."""
    found = lesion_scores(lines((10, 22), (24, 30)), lines((10, 30)))
    assert found == LesionScores(1, 2, 1, 0.5, 1, pytest.approx(2 / 3), pytest.approx((24 / 32) / 2))


def test_the_sum_counts_not_the_best_pair():
    """The best pair alone has IoU 8 / 20 and leaves both others nothing; their sum is 5 / 14 + 5 / 18."""
    found = lesion_scores(lines((0, 5), (6, 20)), lines((0, 14), (15, 24)))
    assert found.matched == 2
    assert found.dice == pytest.approx((10 / 19 + 10 / 23) / 2)


def test_a_pair_at_the_threshold_is_one():
    reference, prediction = lines((0, 10)), lines((0, 1))
    assert lesion_scores(prediction, reference, 0.1).matched == 1
    assert lesion_scores(prediction, reference, 0.1001).matched == 0


def test_lesions_that_are_too_small_are_ignored_on_both_sides():
    reference, prediction = lines((0, 10), (20, 22), (30, 32)), lines((0, 10), (20, 21), (40, 42))
    assert lesion_scores(prediction, reference, minimum=3) == LesionScores(1, 1, 1, 1, 1, 1, 1)
    assert lesion_scores(prediction, reference, minimum=2).prediction == 2
    assert lesion_scores(prediction, reference, minimum=11) == LesionScores(0, 0, 0, None, None, None, None)


def test_empty_masks_follow_the_rule():
    full, empty = lines((0, 3), (5, 8)), lines()
    assert lesion_scores(empty, empty) == LesionScores(0, 0, 0, None, None, None, None)
    assert lesion_scores(empty, full) == LesionScores(2, 0, 0, 0, 0, 0, 0)
    assert lesion_scores(full, empty) == LesionScores(0, 2, 0, 0, 0, 0, 0)


def test_many_lesions_need_no_matrix_of_all():
    """8000 of 27 voxels, every third moved by one, every tenth missed; a matrix of all pairs would be 500 MB."""
    reference = np.zeros((100, 100, 100), bool)
    prediction = np.zeros_like(reference)
    corners = [(x, y, z) for x in range(0, 100, 5) for y in range(0, 100, 5) for z in range(0, 100, 5)]
    for index, corner in enumerate(corners):
        cube = tuple(slice(start, start + 3) for start in corner)
        reference[cube] = True
        if index % 10:
            prediction[(slice(cube[0].start + (index % 3 == 0), cube[0].stop + (index % 3 == 0)), *cube[1:])] = True
    moved = sum(index % 3 == 0 and index % 10 > 0 for index in range(len(corners)))
    tracemalloc.start()
    found = lesion_scores(prediction, reference)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found.reference, found.prediction, found.matched) == (8000, 7200, 7200)
    assert found.dice == pytest.approx((7200 - moved + moved * 2 / 3) / 8000)
    assert peak < 100e6


def test_a_chain_of_lesions_that_share_their_partners():
    """Bars of 8 in steps of 10, each partner moved by 5: every one overlaps two, and shifting all is best."""
    reference = lines(*((start, start + 8) for start in range(0, 500, 10)), length=520)
    prediction = lines(*((start + 5, start + 13) for start in range(0, 500, 10)), length=520)
    found = lesion_scores(prediction, reference)
    assert (found.matched, found.dice) == (50, pytest.approx(3 / 8))


def test_wrong_input_is_named():
    mask = lines((0, 3))
    for threshold in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="threshold"):
            lesion_scores(mask, mask, threshold)
    with pytest.raises(TypeError, match="boolean"):
        lesion_scores(mask.astype(int), mask)

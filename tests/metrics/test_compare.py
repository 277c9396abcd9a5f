import tracemalloc
from dataclasses import asdict

import numpy as np
import pytest

from dlka_med.metrics import (
    EMPTY_MASK_RULE,
    Scores,
    assd,
    boundary_iou,
    compare,
    dice,
    hd,
    hd95,
    iou,
    nsd,
    precision,
    recall,
    volume_error,
)
from tests.metrics import definitions
from tests.metrics.masks_at_random import PAIRS, box


def test_every_metric_is_its_definition():
    statuses = set()
    for seed, pair in enumerate(PAIRS):
        arguments = (pair.prediction, pair.reference, pair.spacing, pair.tolerance)
        found = compare(*arguments)
        assert asdict(found) == pytest.approx(definitions.scores(*arguments), abs=1e-6), seed
        statuses.add((found.status, pair.prediction.ndim))
    assert len(statuses) == 8


@pytest.mark.parametrize("empty", [False, True])
def test_a_part_of_the_image_gives_what_the_whole_gives(empty):
    for pair in PAIRS[:60]:
        reference = pair.reference & (not empty)
        wide = [np.pad(mask, [(1, 3)] * mask.ndim) for mask in (pair.prediction, reference)]
        expected = compare(*wide, pair.spacing, pair.tolerance)
        assert compare(pair.prediction, reference, pair.spacing, pair.tolerance, shape=wide[0].shape) == expected


def test_every_metric_is_that_of_its_own_function():
    for pair in PAIRS:
        masks, spacing = (pair.prediction, pair.reference), pair.spacing
        found = asdict(compare(*masks, spacing, pair.tolerance))
        expected = {function.__name__: function(*masks) for function in (dice, iou, precision, recall, volume_error)}
        expected |= {function.__name__: function(*masks, spacing) for function in (hd95, hd, assd)}
        expected["nsd"] = nsd(*masks, spacing, pair.tolerance)
        expected["boundary_iou"] = boundary_iou(*masks) if len(spacing) == 2 else None
        assert found == pytest.approx({"status": found["status"]} | expected, abs=1e-12)


@pytest.mark.parametrize("shape", [(6, 9), (6, 9, 4)])
def test_equal_masks_are_perfect(shape):
    flat = 1 if len(shape) == 2 else None
    perfect = Scores("ok", 1, 1, 1, 1, 0, 0, 0, 0, 1, flat)
    mask = np.random.default_rng(0).random(shape) < 0.5
    assert compare(mask, mask.copy(), (0.3,) * len(shape), 0) == perfect
    assert compare(np.ones(shape, bool), np.ones(shape, bool), (1,) * len(shape)) == perfect


def test_empty_masks_follow_the_rule():
    full, empty, spacing = box((4, 5, 6), (1, 1, 1), (3, 3, 3)), np.zeros((4, 5, 6), bool), (1.0, 2.0, 0.5)
    far = (pytest.approx(np.sqrt(4**2 + 10**2 + 3**2)),) * 3
    assert compare(empty, empty, spacing) == Scores("both_empty")
    assert compare(empty, full, spacing) == Scores("missed", 0, 0, 0, 0, -1, *far, 0)
    assert compare(full, empty, spacing) == Scores("false_positive", 0, 0, 0, 0, None, *far, 0)
    assert compare(full[1], empty[1], spacing[1:]).boundary_iou == 0
    for word in ("both_empty", "missed", "false_positive", "volume_error is -1", "diagonal"):
        assert word in EMPTY_MASK_RULE


def test_the_diagonal_and_the_width_are_those_of_the_image():
    """Not of the box that holds the masks."""
    prediction, reference = box((400, 300), (10, 10), (60, 60)), box((400, 300), (12, 10), (62, 60))
    found = compare(prediction, reference, (1, 1))
    assert found.boundary_iou == boundary_iou(prediction, reference, 10) != boundary_iou(prediction, reference, 1)
    assert compare(prediction, np.zeros_like(prediction), (1, 1)).hd == 500


@pytest.mark.parametrize("order", ["C", "F"])
def test_memory_is_bounded_by_the_structures(order):
    """Small structures in a large volume take a fraction of one copy of it."""
    shape = (300, 300, 300)
    reference, prediction = (
        np.asarray(box(shape, (a,) * 3, (b,) * 3), order=order) for a, b in ((100, 140), (101, 139))
    )
    tracemalloc.start()
    compare(prediction, reference, (1, 1, 1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < reference.nbytes / 2


def test_wrong_input_is_named():
    mask = np.ones((3, 3), bool)
    with pytest.raises(TypeError, match="boolean"):
        compare(mask.astype(int), mask, (1, 1))
    with pytest.raises(ValueError, match="2 positive spacings"):
        compare(mask, mask, (1,))
    with pytest.raises(ValueError, match="tolerance"):
        compare(mask, mask, (1, 1), -1)

import math

import numpy as np
import pytest

from dlka_med.metrics import bounding_box, diagonal, hd95
from dlka_med.metrics.masks import status_of
from tests.metrics.masks_at_random import PAIRS, box


def test_the_box_is_the_smallest_that_holds_all():
    first, second = box((9, 8, 7), (1, 2, 3), (4, 5, 6)), box((9, 8, 7), (3, 0, 4), (5, 3, 5))
    assert bounding_box(first) == (slice(1, 4), slice(2, 5), slice(3, 6))
    assert bounding_box(first, second) == (slice(1, 5), slice(0, 5), slice(3, 6))
    assert bounding_box(first, np.zeros_like(first)) == bounding_box(first)
    assert bounding_box(np.asfortranarray(first), second) == bounding_box(first, second)


def test_the_box_of_random_masks_cuts_nothing_off_and_has_no_empty_side():
    for pair in PAIRS:
        either = pair.prediction | pair.reference
        if either.any():
            cut = either[bounding_box(pair.prediction, pair.reference)]
            assert cut.sum() == either.sum()
            assert all(cut.take(side, axis).any() for axis in range(cut.ndim) for side in (0, -1))


def test_diagonal_from_corner_to_corner():
    assert diagonal((4, 5, 6), (1.0, 2.0, 0.5)) == pytest.approx(math.sqrt(4**2 + 10**2 + 3**2))


def test_status_names_the_empty_mask():
    full, empty = np.ones((2, 2), bool), np.zeros((2, 2), bool)
    assert [status_of(*masks) for masks in ((full, full), (empty, full), (full, empty), (empty, empty))] == [
        "ok",
        "missed",
        "false_positive",
        "both_empty",
    ]


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

import warnings

import numpy as np
import pytest
import torch
from monai.metrics import compute_iou

from dlka_med.metrics import dice, iou, precision, recall, volume_error
from tests.metrics.definitions import overlaps
from tests.metrics.masks_at_random import PAIRS, blobs, box

FUNCTIONS = (dice, iou, precision, recall, volume_error)


def test_each_function_is_its_definition():
    for pair in PAIRS:
        masks = pair.prediction, pair.reference
        expected = overlaps(*masks)
        if not (masks[0].any() or masks[1].any()):
            expected = dict.fromkeys(expected)
        found = {function.__name__: function(*masks) for function in FUNCTIONS}
        assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shape", [(17, 23), (11, 9, 13)])
def test_iou_agrees_with_monai(shape):
    prediction, reference = blobs(shape, 3)
    tensors = [torch.tensor(mask)[None, None].float() for mask in (prediction, reference)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = compute_iou(*tensors).item()
    assert iou(prediction, reference) == pytest.approx(expected, rel=1e-6)


def test_what_was_predicted_too_much_costs_precision_alone():
    reference, prediction = box((10,), (2,), (6,)), box((10,), (2,), (10,))
    assert (precision(prediction, reference), recall(prediction, reference)) == (0.5, 1)
    assert (volume_error(prediction, reference), volume_error(reference, prediction)) == (1, -0.5)


def test_empty_masks_follow_the_rule():
    full, empty = np.ones((3, 3), bool), np.zeros((3, 3), bool)
    assert [function(empty, empty) for function in FUNCTIONS] == [None] * 5
    assert [function(empty, full) for function in FUNCTIONS] == [0, 0, 0, 0, -1]
    assert [function(full, empty) for function in FUNCTIONS] == [0, 0, 0, 0, None]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_wrong_masks_are_named(function):
    with pytest.raises(TypeError, match="boolean"):
        function(np.zeros(3), np.zeros(3, bool))
    with pytest.raises(ValueError, match="shape"):
        function(np.zeros(3, bool), np.zeros(4, bool))

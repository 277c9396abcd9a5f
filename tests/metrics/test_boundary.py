import numpy as np
import pytest

from dlka_med.metrics import boundary_iou, iou
from dlka_med.metrics.boundary import boundary, default_width
from tests.metrics import definitions
from tests.metrics.masks_at_random import PAIRS, ball, box


@pytest.mark.parametrize("width", [1, 2])
def test_agrees_with_the_definition(width):
    for pair in PAIRS:
        masks = pair.prediction, pair.reference
        assert boundary_iou(*masks, width) == pytest.approx(definitions.boundary_iou(*masks, width), abs=1e-12)
        assert set(zip(*np.nonzero(boundary(masks[0], width)), strict=True)) == definitions.boundary(masks[0], width)


def test_shifted_squares_in_closed_form():
    """Frames one pixel wide of two squares of side 10, one moved by 1 along an axis, share two rows of 9."""
    reference, prediction = box((20, 20), (4, 4), (14, 14)), box((20, 20), (5, 4), (15, 14))
    assert boundary_iou(prediction, reference, 1) == pytest.approx(18 / (2 * 36 - 18))
    assert boundary_iou(prediction, reference, 5) == iou(prediction, reference)


def test_the_border_of_the_image_is_a_contour():
    assert boundary(np.ones((5, 6), bool), 1).sum() == 5 * 6 - 3 * 4


def test_two_percent_of_the_diagonal_by_default():
    assert [default_width(shape) for shape in ((10, 10), (512, 512), (300, 400), (64, 64, 64))] == [1, 14, 10, 2]
    masks = [ball((300, 400), (150, place), 90, (1, 1)) for place in (180, 190)]
    assert boundary_iou(*masks) == boundary_iou(*masks, 10) != boundary_iou(*masks, 9)


def test_an_outline_error_weighs_more_than_in_iou():
    masks = [ball((200, 200), (100, 100), radius, (1, 1)) for radius in (80, 84)]
    assert boundary_iou(*masks) < 0.4 < 0.9 < iou(*masks)


def test_empty_masks_follow_the_rule():
    full, empty = np.ones((3, 3), bool), np.zeros((3, 3), bool)
    assert (boundary_iou(empty, empty), boundary_iou(full, empty), boundary_iou(empty, full)) == (None, 0, 0)


def test_wrong_input_is_named():
    mask = np.ones((3, 3), bool)
    with pytest.raises(ValueError, match="width must be 1 or more"):
        boundary_iou(mask, mask, 0)
    with pytest.raises(TypeError, match="boolean"):
        boundary_iou(mask.astype(int), mask)

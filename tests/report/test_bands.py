from itertools import pairwise

import numpy as np
import pytest
from scipy import ndimage

from dlka_med.report import bands as module
from dlka_med.report.bands import BANDS, BUDGET, averaged, bands_of
from dlka_med.report.outlines import outline

from .test_outlines import filled


def blurred(shape, seed=0):
    return 5 * ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), (0, 2, 2)) - 2


def size(bands):
    return sum(len(path) for one in bands.paths for path in one)


def test_what_is_more_uncertain_lies_within_what_is_less():
    found = bands_of(blurred((3, 41, 30)), (1, 1))
    for paths in found.paths:
        masks = [filled(path, found.grid) for path in paths]
        assert all((inner <= outer).all() for outer, inner in pairwise(masks))
        assert masks[0].sum() > masks[-1].sum() > 0


def test_small_slices_are_enlarged_and_thin_bands_hold_together():
    """A diagonal of single pixels is one part, where `outline` parts them."""
    entropy = np.eye(20)[None]
    found = bands_of(entropy, (1, 1))
    assert found.grid == (60, 60)
    assert found.paths[0][0].count("M") == 1
    assert outline(entropy[0] >= BANDS[0]).count("M") == 20
    assert bands_of(blurred((1, 300, 20)), (1, 1)).grid == (300, 20)


def test_rows_and_columns_are_joined_as_in_the_picture():
    entropy = np.zeros((1, 300, 200))
    entropy[0, 100:140, 50:70] = 0.6
    found = bands_of(entropy, (2, 5))
    assert found.grid == (150, 40)
    wanted = np.zeros(found.grid, bool)
    wanted[50:70, 10:14] = True
    assert (filled(found.paths[0][0], found.grid) == wanted).all()
    assert found.paths[0][2] == ""


def test_joined_bands_lie_where_the_picture_is(monkeypatch):
    """A number of pixels that is no multiple of those that are joined."""
    monkeypatch.setattr(module, "BUDGET", 0)
    entropy = np.zeros((1, 47, 61))
    entropy[0, 38:, 50:] = 1
    found = bands_of(entropy, (1, 1))
    assert found.grid == (5, 7)
    rows, columns = np.nonzero(filled(found.paths[0][1], found.grid))
    assert (rows.min() / 5, columns.min() / 7) == pytest.approx((38 / 47, 50 / 61), abs=0.5 / 5)
    assert (rows.max(), columns.max()) == (4, 6)


@pytest.mark.parametrize("shape", [(20, 224, 200), (1, 900, 800), (32, 40, 50), (4, 1, 60)])
def test_noise_stays_small(shape):
    noise = np.random.default_rng(0).random(shape)
    found = bands_of(noise, (1, 1))
    assert size(found) < 4 * BUDGET
    assert len(found.paths) == len(noise)


def test_the_mean_of_blocks_is_that_of_a_loop():
    picture = np.random.default_rng(0).random((7, 11, 3))
    found = averaged(picture, (2, 3))
    assert found.shape == (3, 3, 3)
    for row, column in np.ndindex(3, 3):
        block = picture[2 * row : 2 * row + 2, 3 * column : 3 * column + 3]
        assert np.allclose(found[row, column], block.mean(axis=(0, 1)))

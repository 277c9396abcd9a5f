"""Components and holes against a flood fill in plain Python."""

import numpy as np
import pytest
from scipy import ndimage

from dlka_med.inference import components as module
from dlka_med.inference.components import components, holes
from tests.brute_force import flood, holes_of

SHAPES = [(1, 1), (7, 5), (13, 9), (4, 1, 3), (5, 7, 6), (9, 4, 5)]


def as_sets(numbers):
    return {frozenset(map(tuple, np.argwhere(numbers == one))) for one in range(1, int(numbers.max()) + 1)}


@pytest.fixture(params=[2**22, 6])
def _slabs(request, monkeypatch):
    """All at once, and in rows of six voxels or less."""
    monkeypatch.setattr(module, "AT_ONCE", request.param)


@pytest.mark.usefixtures("_slabs")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [0.0, 0.2, 0.7, 1.0])
def test_parts_are_those_of_a_flood(shape, density):
    mask = np.random.default_rng(len(shape)).random(shape) < density
    for found, expected in ((components, flood(mask, corners=True)), (holes, holes_of(mask))):
        numbers, sizes = found(mask)
        assert numbers.dtype == np.int32
        assert as_sets(numbers) == {frozenset(part) for part in expected}
        assert sizes.tolist() == [0, *((numbers == one).sum() for one in range(1, len(sizes)))]
        assert len(sizes) == len(expected) + 1


@pytest.mark.parametrize("shape", [(31, 17), (15, 13, 11)])
def test_holes_are_what_scipy_fills(shape):
    blobs = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=shape), 1) < 0.1
    numbers, _ = holes(blobs)
    assert numbers.any()
    assert np.array_equal(numbers > 0, ndimage.binary_fill_holes(blobs) & ~blobs)

"""Probabilities on the native grid, against SciPy and against the formula."""

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from scipy.special import expit, softmax

from dlka_med.inference.grids import corners, seen_box
from dlka_med.inference.pieces import WayBack
from dlka_med.inference.restore import restore, restore_probabilities

SHAPE = (6, 8, 7)


def random_logits(classes=4, shape=SHAPE):
    return 3 * torch.randn(classes, *shape, generator=torch.Generator().manual_seed(0))


def probabilities(logits, *grids, **options):
    """(K, *S) of all rows, from slabs along the last axis."""
    way = WayBack(logits.ndim - 2, logits.shape[1:], *grids)
    slabs = ((start, row[:, None]) for start, row in enumerate(logits.unbind(-1)))
    whole = np.zeros((len(logits), *way.native_shape), np.float32)
    whole[0] = not options.get("regions", False)
    for rows, chances in restore_probabilities(slabs, way, **options):
        assert chances.dtype == np.float32
        np.moveaxis(whole, way.axis + 1, 0)[rows] = chances
    return whole


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("regions", [False, True])
def test_of_one_grid_they_are_those_of_the_logits(temperature, regions):
    logits = random_logits()
    found = probabilities(logits, np.eye(4), np.eye(4), SHAPE, regions=regions, temperature=temperature)
    scaled = logits.numpy().astype(np.float64) / temperature
    np.testing.assert_allclose(found, expit(scaled) if regions else softmax(scaled, axis=0), atol=1e-6)


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_resampled_ones_agree_with_scipy_and_the_background_surrounds_them(regions, order):
    """Native voxel -> prepared voxel: 0.7 of a step, mirrored along the first axis, 2 native voxels of margin."""
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1
    for axis, (native, scale, start) in enumerate(zip(order, (-0.7, 0.7, 0.7), (6.1, -1.5, -1.5), strict=True)):
        matrix[axis, native], matrix[axis, 3] = scale, start
    native_shape = (13, 14, 12)
    logits = random_logits()
    found = probabilities(logits, np.eye(4), matrix, native_shape, regions=regions, temperature=1.7)
    places = np.tensordot(matrix[:3, :3], np.indices(native_shape), 1) + matrix[:3, 3].reshape(3, 1, 1, 1)
    scaled = logits.numpy().astype(np.float64) / 1.7
    chances = expit(scaled) if regions else softmax(scaled, axis=0)
    box = np.zeros(native_shape, bool)
    box[seen_box(np.eye(4), matrix, SHAPE, native_shape)] = True
    assert 0.2 < box.mean() < 0.9
    for index, chance in enumerate(chances):
        inside = map_coordinates(chance, places, order=1, mode="nearest")
        expected = np.where(box, inside, float(index == 0 and not regions))
        np.testing.assert_allclose(found[index], expected, atol=1e-5)
    if not regions:
        np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("scales", [(1, 1, 1), (0.7, 1, 1), (0.7, 0.6, 0.8)])
def test_corners_interpolate_to_the_same(scales):
    native = np.diag([*scales, 1.0])
    native[:3, :3] = native[:3, :3][:, [1, 0, 2]]
    native_shape = (7, 8, 7)
    logits = random_logits()
    box = seen_box(np.eye(4), native, SHAPE, native_shape)
    voxels = np.argwhere(np.ones([part.stop - part.start for part in box])) + [part.start for part in box]
    indices, shares = corners(np.eye(4), native, SHAPE, native_shape, voxels)
    assert len(indices) == 2 ** sum(scale != 1 for scale in scales)
    np.testing.assert_allclose(shares.sum(axis=0), 1)
    chances = logits.softmax(0).numpy()[(slice(None), *np.moveaxis(indices, -1, 0))]
    found = probabilities(logits, np.eye(4), native, native_shape)
    np.testing.assert_allclose((chances * shares).sum(axis=1), found[(slice(None), *voxels.T)], atol=1e-5)


def test_the_likeliest_class_is_that_of_the_label_map():
    logits = random_logits()
    native = np.diag([0.7, 0.7, 0.7, 1])
    found = probabilities(logits, np.eye(4), native, (8, 11, 9))
    assert (found.argmax(0) == restore(logits, np.eye(4), native, (8, 11, 9))).mean() > 0.999


def test_a_2d_image_has_probabilities():
    logits = random_logits(shape=(5, 6))
    found = probabilities(logits, np.eye(3), np.eye(3), (5, 6), temperature=2)
    np.testing.assert_allclose(found, (logits / 2).softmax(0), atol=1e-6)


@pytest.mark.parametrize("temperature", [0, -1.0, np.inf, np.nan])
def test_a_temperature_is_positive(temperature):
    with pytest.raises(ValueError, match="temperature must be positive"):
        probabilities(random_logits(), np.eye(4), np.eye(4), SHAPE, temperature=temperature)

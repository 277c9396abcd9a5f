import json

import numpy as np
import pytest

from dlka_med.data import grey
from dlka_med.data.grey import Measured, measure


def of(image, label=None, start=None, end=None):
    image = np.asarray(image, dtype=np.float32)
    return measure("a", image, label, start or [0] * (image.ndim - 1), end or list(image.shape[1:]))


def test_moments_are_those_of_the_crop():
    image = np.random.default_rng(0).gamma(2, 100, (2, 9, 10, 11)).astype(np.float32)
    image[:, 2:4] = 0
    found = of(image, start=[1, 2, 0], end=[8, 9, 10])
    for channel, volume in zip(found.channels, image[:, 1:8, 2:9, :10], strict=True):
        for moments, values in ((channel.whole, volume), (channel.nonzero, volume[volume != 0])):
            values = values.astype(np.float64)
            limits = np.percentile(values, (0.5, 99.5))
            kept = values.clip(*limits)
            expected = [values.mean(), values.std(), *limits, kept.mean(), kept.std()]
            got = [moments.mean, moments.std, moments.lower, moments.upper, moments.clipped_mean, moments.clipped_std]
            np.testing.assert_allclose(got, expected, rtol=1e-6)
        assert channel.peak == volume.max()
        assert volume.max() in image[(slice(None), *channel.extreme)]


def test_a_small_deviation_about_a_large_mean():
    values = 1e6 + np.arange(27).reshape(1, 3, 3, 3) % 2
    assert of(values).channels[0].whole.std == pytest.approx(values.std(), rel=1e-9)


def test_percentiles_of_a_sample(monkeypatch):
    image = np.random.default_rng(0).normal(100, 15, (1, 30, 30, 30))
    exact = of(image).channels[0].whole
    monkeypatch.setattr(grey, "PERCENTILE_SAMPLE", 3000)
    few = of(image).channels[0].whole
    assert few.lower != exact.lower
    assert few.lower == pytest.approx(exact.lower, abs=3)
    assert (few.mean, few.std) == (pytest.approx(exact.mean), pytest.approx(exact.std))


@pytest.mark.parametrize("shape", [(30, 40, 20), (20, 30, 40), (120, 200)])
def test_percentiles_of_a_sample_are_of_all_slices(monkeypatch, shape):
    monkeypatch.setattr(grey, "PERCENTILE_SAMPLE", 3000)
    for values in np.indices(shape):
        whole = of(values[None]).channels[0].whole
        assert (whole.lower, whole.upper) == pytest.approx(np.percentile(values, (0.5, 99.5)), abs=1)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (np.pad(np.full((8, 8, 8), 100), 2), True),
        (np.pad(np.full((8, 8, 8), 100), 2, constant_values=1), False),
        (np.random.default_rng(0).integers(0, 30, (12, 12, 12)), False),  # 0 is one of many greys
        (np.pad(np.random.default_rng(0).integers(0, 3, (12, 12)) + 90, 5), True),
        (np.random.default_rng(0).normal(0, 5, (40, 40)).clip(0).round(), False),  # a dark photograph
        (np.full((12, 12), 7), False),
    ],
)
def test_when_0_is_an_empty_surrounding(image, expected):
    (channel,) = of(image[None]).channels
    assert channel.is_surrounded is expected
    assert channel.outside == 0 or not expected


def test_what_lies_outside_is_what_the_border_shows():
    image = np.random.default_rng(0).normal(50, 1, (1, 9, 9, 9))
    image[0, 1:-1, 1:-1, 1:-1] = 500
    assert of(image).channels[0].outside == pytest.approx(50, abs=0.3)
    assert of(image, start=[1, 0, 0], end=[9, 9, 9]).channels[0].outside == 0


def test_a_sample_of_labelled_voxels_is_bounded_and_depends_on_the_case_alone(monkeypatch):
    random = np.random.default_rng(0)
    image, label = random.normal(size=(2, 9, 9, 9)).astype(np.float32), random.integers(0, 3, (9, 9, 9))
    every = of(image, label).foreground
    np.testing.assert_array_equal(np.sort(every), np.sort(image[:, label > 0]))
    monkeypatch.setattr(grey, "FOREGROUND_SAMPLE", 20)
    few = of(image, label).foreground
    assert few.shape == (2, 20)
    np.testing.assert_array_equal(few, of(image, label).foreground)
    other = measure("b", image, label, [0] * 3, [9] * 3).foreground
    assert not np.array_equal(few, other)
    pairs = {tuple(pair) for pair in image[:, label > 0].T.tolist()}
    assert {tuple(pair) for pair in few.T.tolist()} <= pairs
    assert of(image).foreground.shape == (2, 0)


def test_back_from_json():
    found = of(np.random.default_rng(0).normal(size=(2, 5, 6, 7)))
    again = Measured.of_facts(json.loads(json.dumps(found.facts())), found.foreground)
    assert again.channels == found.channels

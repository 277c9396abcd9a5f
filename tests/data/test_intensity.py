import logging

import numpy as np
import pytest

from dlka_med.config.dataset import Intensity, Preprocessing
from dlka_med.data.grey import measure
from dlka_med.data.intensity import Scale, named_intensity, resolve_intensity, warn_of_outliers
from dlka_med.data.prepare import measure_case
from dlka_med.errors import InputError

LABELS = {"background": 0, "body": 1, "core": 5}
KINDS = {kind: Intensity(kind=kind) for kind in ("zscore", "zscore_nonzero", "robust", "robust_nonzero", "none")}


def measured(image, label=None, name="a"):
    """Of an image (C, *S) or (*S), not cropped."""
    image = image.astype(np.float32)
    image = image if image.ndim == 4 else image[None]
    return measure(name, image, label, [0] * (image.ndim - 1), image.shape[1:])


def normalise(volume, intensity):
    return Scale.of([intensity], measured(volume))(volume[None].astype(np.float32))[0]


def test_auto_looks_at_the_names():
    kinds = named_intensity(Preprocessing(), ["CT", "ct ", "T1", "PET-CT"])
    assert [kind.kind for kind in kinds] == ["ct", "ct", "zscore_nonzero", "zscore_nonzero"]
    given = (KINDS["zscore"], KINDS["none"])
    assert named_intensity(Preprocessing(intensity=given), ["CT", "T1"]) == given
    with pytest.raises(InputError, match="2 entries for 1 channels"):
        named_intensity(Preprocessing(intensity=given), ["CT"])


@pytest.mark.parametrize("scale", [1, 1.7e6])
def test_zscore_counts_every_voxel_and_its_sibling_those_that_are_not_0(scale):
    inside = np.random.default_rng(0).uniform(0.1, 1, 500) * scale
    volume = np.concatenate([inside, np.zeros(500)]).reshape(10, 10, 10).astype(np.float32)
    result = normalise(volume, KINDS["zscore_nonzero"]).ravel()
    np.testing.assert_allclose(result[:500], (inside - inside.mean()) / inside.std(), atol=2e-6)
    np.testing.assert_allclose(result[500:], -inside.mean() / inside.std(), rtol=1e-5)
    every = normalise(volume, KINDS["zscore"])
    np.testing.assert_allclose(every, (volume - volume.mean()) / volume.std(), atol=2e-6)


def test_robust_clips_then_standardises():
    volume = np.random.default_rng(0).gamma(2, 100, (20, 20, 20)).astype(np.float32)
    volume[:8] = 0
    for kind, part in (("robust", volume), ("robust_nonzero", volume[volume != 0])):
        limits = np.percentile(part, (0.5, 99.5))
        kept = part.clip(*limits)
        expected = (volume.clip(*limits) - kept.mean()) / kept.std()
        np.testing.assert_allclose(normalise(volume, KINDS[kind]), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["zscore", "zscore_nonzero", "robust", "robust_nonzero"])
@pytest.mark.parametrize("value", [0, 7, -3, 1e-20, 1.7e6])
def test_constant_images_become_zero(kind, value):
    np.testing.assert_array_equal(normalise(np.full((3, 3, 3), value, dtype=np.float32), KINDS[kind]), 0)


def test_ct_and_none():
    ct = Intensity(kind="ct", lower=-100, upper=200, mean=50, std=25)
    values = np.array([-1000, -100, 50, 75, 3000, 0, 0, 0], dtype=np.float32).reshape(2, 2, 2)
    np.testing.assert_allclose(normalise(values, ct).ravel()[:5], [-6, -6, 0, 1, 6])
    np.testing.assert_array_equal(normalise(values, KINDS["none"]), values)
    with pytest.raises(ValueError, match="resolve_intensity first"):
        normalise(values, Intensity(kind="ct"))


def test_each_channel_of_a_patch_by_its_own_numbers():
    image = np.random.default_rng(0).normal([[[[10]]], [[[500]]]], [[[[2]]], [[[90]]]], (2, 8, 9, 10))
    image = image.astype(np.float32)
    scale = Scale.of([KINDS["zscore"], KINDS["robust"]], measured(image))
    np.testing.assert_array_equal(scale(image)[:, 2:5, :4], scale(image[:, 2:5, :4]))
    assert np.abs(scale(image).mean((1, 2, 3))).max() < 1e-4


def picture(background, seed=0):
    """Bright spots on an even background, as under a microscope."""
    random = np.random.default_rng(seed)
    image = np.full((64, 64), float(background))
    image[random.random(image.shape) < 0.07] = 150
    return np.where(image == 150, image + random.normal(0, 20, image.shape), image).round()


def brain(seed=0):
    """A bright ball in an empty surrounding."""
    distance = np.linalg.norm(np.indices((24, 24, 24)) - 11.5, axis=0)
    return np.where(distance < 9, np.random.default_rng(seed).normal(100, 15, distance.shape).clip(30), 0)


def test_one_rule_for_all_images_of_a_dataset():
    """An image with a background of 0 and its twin with 1 become the same numbers."""
    cases = [measured(picture(index % 3, index)) for index in range(6)]
    (kind,) = resolve_intensity(Preprocessing(), ["grey"], cases)
    assert kind == KINDS["zscore"]
    black, dark = (normalise(picture(value), kind)[picture(0) == 0][0] for value in (0, 1))
    assert black == pytest.approx(dark, abs=0.01)
    brains = [measured(brain(seed)) for seed in range(4)]
    assert resolve_intensity(Preprocessing(), ["T1"], brains) == (KINDS["zscore_nonzero"],)
    assert resolve_intensity(Preprocessing(), ["T1"], brains[:2] + cases[1:3]) == (KINDS["zscore_nonzero"],)
    assert resolve_intensity(Preprocessing(), ["T1"], brains[:1] + cases[1:3]) == (KINDS["zscore"],)
    given = Preprocessing(intensity=(KINDS["robust"],))
    assert resolve_intensity(given, ["T1"], brains) == (KINDS["robust"],)


def ct_cases(make_case, count=5):
    cases, foreground = [], []
    for index in range(count):
        random = np.random.default_rng(index)
        images = random.normal(100 * index, 300, (2, 6, 7, 8)).astype(np.float32)
        label = random.choice([0, 0, 1, 5], images.shape[1:]).astype(np.uint8)
        cases.append(measure_case(make_case(f"ct_{index}", images, label), ["T1", "CT"], LABELS))
        foreground.append(images[1][label > 0])
    return cases, foreground


def test_ct_statistics_are_those_of_the_foreground(make_case):
    cases, foreground = ct_cases(make_case)
    voxels = np.concatenate(foreground).astype(np.float64)
    mri, ct = resolve_intensity(Preprocessing(), ["T1", "CT"], cases)
    assert mri == KINDS["zscore"]
    expected = [*np.percentile(voxels, (0.5, 99.5)), voxels.mean(), voxels.std()]
    np.testing.assert_allclose([ct.lower, ct.upper, ct.mean, ct.std], expected, rtol=1e-9)
    half_known = Preprocessing(intensity=(KINDS["zscore"], Intensity(kind="ct", lower=-160, mean=0)))
    ct = resolve_intensity(half_known, ["T1", "CT"], cases)[1]
    np.testing.assert_allclose([ct.lower, ct.upper, ct.mean, ct.std], [-160, expected[1], 0, expected[3]])


def test_no_foreground(make_case):
    case = measure_case(make_case("a", np.ones((3, 3, 3)), np.zeros((3, 3, 3), dtype=np.uint8)), ["CT"], LABELS)
    with pytest.raises(InputError, match="no training case has a labelled foreground"):
        resolve_intensity(Preprocessing(), ["CT"], [case])


def test_a_foreground_of_one_value(make_case):
    case = measure_case(make_case("a", np.ones((3, 3, 3)), np.ones((3, 3, 3), dtype=np.uint8)), ["CT"], LABELS)
    with pytest.raises(InputError, match="no range of grey values in channel 'CT': lower 1, upper 1"):
        resolve_intensity(Preprocessing(), ["CT"], [case])
    given = Intensity(kind="ct", lower=-160, upper=240)
    ct = resolve_intensity(Preprocessing(intensity=(given,)), ["CT"], [case])[0]
    assert (ct.lower, ct.upper, ct.mean, ct.std) == (-160, 240, 1, 1)


@pytest.mark.parametrize("kind", ["zscore", "zscore_nonzero"])
def test_a_warning_names_the_case_and_the_voxel_that_rules_it(caplog, kind):
    image = np.random.default_rng(0).normal(100, 15, (12, 12, 12))
    image[3, 4, 5] = 1e30
    with caplog.at_level(logging.WARNING, "dlka_med"):
        warn_of_outliers("case_7", ["MRI"], [KINDS[kind]], measured(image))
    (record,) = caplog.records
    words = ("case case_7", "'MRI'", "(3, 4, 5)", "1e+30", f"kind: {kind.replace('zscore', 'robust')}")
    assert all(word in record.getMessage() for word in words)


def test_ordinary_images_warn_of_nothing(caplog):
    volumes = [brain(), picture(0), picture(20), np.random.default_rng(0).lognormal(0, 1.5, (30, 30, 30))]
    with caplog.at_level(logging.WARNING, "dlka_med"):
        for volume in volumes:
            for kind in KINDS.values():
                warn_of_outliers("a", ["MRI"], [kind], measured(volume))
        outlier = volumes[-1].copy()
        outlier[0, 0, 0] = 1e30
        warn_of_outliers("a", ["MRI"], [KINDS["robust"]], measured(outlier))
    assert not caplog.records

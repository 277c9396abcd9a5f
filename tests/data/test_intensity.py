import numpy as np
import pytest

from dlka_med.config.dataset import Intensity, Preprocessing
from dlka_med.data.intensity import named_intensity, normalise, resolve_intensity
from dlka_med.errors import InputError

LABELS = {"background": 0, "body": 1, "core": 5}
ZSCORE = Intensity(kind="zscore")


def test_auto_looks_at_the_names():
    kinds = named_intensity(Preprocessing(), ["CT", "ct ", "T1", "PET-CT"])
    assert [kind.kind for kind in kinds] == ["ct", "ct", "zscore", "zscore"]
    given = (ZSCORE, Intensity(kind="none"))
    assert named_intensity(Preprocessing(intensity=given), ["CT", "T1"]) == given
    with pytest.raises(InputError, match="2 entries for 1 channels"):
        named_intensity(Preprocessing(intensity=given), ["CT"])


@pytest.mark.parametrize("scale", [1, 1.7e6])
def test_zscore_ignores_the_empty_surrounding(scale):
    inside = np.random.default_rng(0).uniform(0.1, 1, 500) * scale
    volume = np.concatenate([inside, np.zeros(500)]).reshape(10, 10, 10).astype(np.float32)
    result = normalise(volume, ZSCORE).ravel()
    np.testing.assert_allclose(result[:500], (inside - inside.mean()) / inside.std(), atol=2e-6)
    np.testing.assert_allclose(result[500:], -inside.mean() / inside.std(), rtol=1e-5)


@pytest.mark.parametrize("value", [0, 7, -3, 1e-20, 1.7e6])
def test_constant_images_become_zero(value):
    np.testing.assert_array_equal(normalise(np.full((3, 3, 3), value, dtype=np.float32), ZSCORE), 0)


def test_ct_and_none():
    ct = Intensity(kind="ct", lower=-100, upper=200, mean=50, std=25)
    values = np.array([-1000, -100, 50, 75, 3000], dtype=np.float32)
    np.testing.assert_allclose(normalise(values, ct), [-6, -6, 0, 1, 6])
    np.testing.assert_array_equal(normalise(values, Intensity(kind="none")), values)
    with pytest.raises(ValueError, match="resolve_intensity first"):
        normalise(values, Intensity(kind="ct"))


def ct_cases(make_case, count=5):
    cases, foreground = [], []
    for index in range(count):
        random = np.random.default_rng(index)
        images = random.normal(100 * index, 300, (2, 6, 7, 8)).astype(np.float32)
        label = random.choice([0, 0, 1, 5], images.shape[1:]).astype(np.uint8)
        cases.append(make_case(f"ct_{index}", images, label))
        foreground.append(images[1][label > 0])
    return cases, foreground


def test_ct_statistics_are_those_of_the_foreground(make_case):
    cases, foreground = ct_cases(make_case)
    voxels = np.concatenate(foreground).astype(np.float64)
    mri, ct = resolve_intensity(cases, Preprocessing(), ["T1", "CT"], LABELS)
    assert mri == ZSCORE
    expected = [*np.percentile(voxels, (0.5, 99.5)), voxels.mean(), voxels.std()]
    np.testing.assert_allclose([ct.lower, ct.upper, ct.mean, ct.std], expected, rtol=1e-9)
    half_known = Preprocessing(intensity=(ZSCORE, Intensity(kind="ct", lower=-160, mean=0)))
    ct = resolve_intensity(cases, half_known, ["T1", "CT"], LABELS)[1]
    np.testing.assert_allclose([ct.lower, ct.upper, ct.mean, ct.std], [-160, expected[1], 0, expected[3]])


def test_ct_sample_is_bounded_and_depends_on_the_case_alone(make_case):
    cases, _ = ct_cases(make_case)
    whole = resolve_intensity(cases, Preprocessing(), ["T1", "CT"], LABELS)[1]
    few = resolve_intensity(cases, Preprocessing(), ["T1", "CT"], LABELS, voxels_per_case=20)[1]
    assert few != whole
    assert few.mean == pytest.approx(whole.mean, abs=4 * 300 / 10)
    again = resolve_intensity(cases[::-1], Preprocessing(), ["T1", "CT"], LABELS, voxels_per_case=20, workers=2)[1]
    assert again.mean == pytest.approx(few.mean)
    assert again.lower == pytest.approx(few.lower)


def test_without_ct_nothing_is_read(make_case):
    case = make_case("a", np.ones((3, 3, 3)), np.ones((3, 3, 3), dtype=np.uint8))
    case.images[0].unlink()
    assert resolve_intensity([case], Preprocessing(), ["T1"], LABELS) == (ZSCORE,)
    with pytest.raises(InputError, match="does not exist"):
        resolve_intensity([case], Preprocessing(), ["CT"], LABELS)


def test_no_foreground(make_case):
    case = make_case("a", np.ones((3, 3, 3)), np.zeros((3, 3, 3), dtype=np.uint8))
    with pytest.raises(InputError, match="no training case has a labelled foreground"):
        resolve_intensity([case], Preprocessing(), ["CT"], LABELS)


def test_a_foreground_of_one_value(make_case):
    case = make_case("a", np.ones((3, 3, 3)), np.ones((3, 3, 3), dtype=np.uint8))
    with pytest.raises(InputError, match="no range of grey values in channel 'CT': lower 1, upper 1"):
        resolve_intensity([case], Preprocessing(), ["CT"], LABELS)
    given = Intensity(kind="ct", lower=-160, upper=240)
    ct = resolve_intensity([case], Preprocessing(intensity=(given,)), ["CT"], LABELS)[0]
    assert (ct.lower, ct.upper, ct.mean, ct.std) == (-160, 240, 1, 1)

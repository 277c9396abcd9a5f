"""Sampled voxels have the probabilities and the labels of the whole case."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dlka_med.calibrating.sampling import BESIDE, draw
from dlka_med.config.labels import IGNORED, LabelScheme
from dlka_med.data.prepare import Prepared
from dlka_med.inference.pieces import WayBack
from dlka_med.inference.restore import restore, restore_probabilities
from dlka_med.metrics import Reliability, near_foreground

CLASSES = LabelScheme.of({"background": 0, "a": 1, "b": 2})
REGIONS = LabelScheme.of({"background": 0, "whole": [1, 2], "core": 2}, (1, 2))
NATIVE = {"whole": np.eye(4), "flat": np.diag([0.7, 0.7, 1, 1]), "resampled": np.diag([-0.7, 0.7, 0.7, 1])}
ANN = (True, "ann")


def case(grid, scheme, ignored=False):
    """Logits with a hill of two classes in a plain of background, on 12 voxels along each axis; and its case."""
    native = NATIVE[grid].copy()
    native[0, 3] = 11 if native[0, 0] < 0 else 0
    shape = tuple(int(12 / abs(native[axis, axis])) for axis in range(3))
    torch.manual_seed(0)
    logits = torch.randn(scheme.outputs, 12, 12, 12) - 4
    if not scheme.has_regions:
        logits[0] += 8
    logits[:, 3:6, 3:6, 3:6] = 2 * torch.randn(scheme.outputs, 3, 3, 3)
    label = np.zeros(shape, np.uint8)
    label[4:7, 4:7, 3:6] = np.random.default_rng(0).integers(0, 3, (3, 3, 3))
    if ignored:
        label[:, ::2] = IGNORED
    return logits, Prepared("a", np.zeros((1, 12, 12, 12)), None, np.eye(4), shape, native, native_label=label)


def expected(logits, prepared, scheme, temperature):
    """Reliability near and far, over every voxel of the probabilities that users get."""
    grids = prepared.affine, prepared.native_affine, prepared.native_shape
    way, chances = WayBack(0, logits.shape[1:], *grids), np.zeros((len(logits), *prepared.native_shape), np.float32)
    options = {"regions": scheme.has_regions, "temperature": temperature}
    for rows, found in restore_probabilities([(0, logits)], way, **options):
        np.moveaxis(chances, way.axis + 1, 0)[rows] = found
    label = prepared.native_label
    prediction = restore(logits, *grids, painted=scheme.painted)
    near = near_foreground(prediction > 0, (label > 0) & (label < IGNORED))
    for kind in (near, ~near):
        kind = kind & (label < IGNORED)
        if not scheme.has_regions:
            yield [Reliability.of(chances[:, kind].clip(0, 1), label[kind])]
            continue
        yield [
            Reliability.of(np.stack([1 - chance[kind], chance[kind]]), scheme.mask(name, label[kind]) * 1, target=1)
            for name, chance in zip(scheme.names, chances, strict=True)
        ]


@pytest.mark.parametrize("grid", NATIVE)
@pytest.mark.parametrize("scheme", [CLASSES, REGIONS], ids=["classes", "regions"])
@pytest.mark.parametrize("ignored", [False, True])
def test_all_voxels_drawn_are_those_of_the_predictor(grid, scheme, ignored):
    logits, prepared = case(grid, scheme, ignored)
    near, far = draw(logits, prepared, scheme, ANN, vectors=10**6)
    assert (near.near, far.near, near.patient, near.weight) == (True, False, ANN, 1)
    for temperature in (1.0, 2.2):
        for sample, diagrams in zip((near, far), expected(logits, prepared, scheme, temperature), strict=True):
            for found, wanted in zip(sample.reliability(temperature), diagrams, strict=True):
                assert found.total == wanted.total
                for name in ("ece", "nll", "brier"):
                    assert getattr(found, name) == pytest.approx(getattr(wanted, name), rel=1e-3, abs=1e-5)
            nll = sum(diagram.nll_sum for diagram in sample.reliability(temperature))
            assert sample.nll(temperature) == pytest.approx(nll)


def test_a_sample_is_bounded_and_stands_for_all():
    logits, prepared = case("resampled", CLASSES)
    whole = draw(logits, prepared, CLASSES, ANN, vectors=10**6)
    few = draw(logits, prepared, CLASSES, ANN, vectors=800)
    for sample, all_of_them in zip(few, whole, strict=True):
        assert sample.logits.shape == (8, 3, 100)
        assert sample.size * sample.weight == pytest.approx(all_of_them.size)
    again = draw(logits, prepared, CLASSES, ANN, vectors=800)
    np.testing.assert_array_equal(few[0].logits, again[0].logits)
    other = draw(logits, replace(prepared, case_id="b"), CLASSES, ANN, vectors=800)
    assert not np.array_equal(few[0].logits, other[0].logits)


@pytest.mark.parametrize("grid", NATIVE)
@pytest.mark.parametrize("scheme", [CLASSES, REGIONS], ids=["classes", "regions"])
def test_a_sample_holds_what_is_told(grid, scheme):
    """Calibrating counts it for every case."""
    samples = draw(*case(grid, scheme), scheme, ANN, vectors=200)
    held = sum(array.nbytes for one in samples for array in (one.logits, one.shares, one.labels))
    told = 2 * 200 * (4 * scheme.outputs + BESIDE)
    assert 0.8 * told < held <= told


def test_samples_of_many_cases_agree_with_all_voxels():
    logits, prepared = case("whole", CLASSES)
    whole = sum(sample.nll(1.5) for sample in draw(logits, prepared, CLASSES, ANN, vectors=10**6))
    drawn = [draw(logits, replace(prepared, case_id=str(name)), CLASSES, ANN, vectors=200) for name in range(100)]
    found = [sum(sample.nll(1.5) for sample in samples) for samples in drawn]
    assert np.mean(found) == pytest.approx(whole, abs=4 * np.std(found) / 10)
    assert np.std(found) < 0.3 * whole


def test_nothing_outside_what_the_network_saw_is_drawn():
    logits, prepared = case("whole", CLASSES)
    wide = np.zeros((20, 12, 12), np.uint8)
    native = np.eye(4)
    native[0, 3] = -5
    wide[0, 0, 0] = 1  # where the image was cropped
    wide[5:17] = prepared.native_label
    prepared = replace(prepared, native_shape=wide.shape, native_affine=native, native_label=wide)
    assert sum(sample.size for sample in draw(logits, prepared, CLASSES, ANN)) == 12**3


def test_an_empty_case_has_voxels_far_from_everything():
    logits, prepared = case("whole", CLASSES)
    logits[0] = 50
    prepared = replace(prepared, native_label=np.zeros_like(prepared.native_label))
    (sample,) = draw(logits, prepared, CLASSES, ANN)
    assert not sample.near
    all_ignored = replace(prepared, native_label=np.full_like(prepared.native_label, IGNORED))
    assert draw(logits, all_ignored, CLASSES, ANN) == []

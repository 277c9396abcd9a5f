"""The temperature of data whose probabilities are known, and estimates that no patient flatters."""

import logging
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, softmax

from dlka_med.calibrating.sampling import Sample
from dlka_med.calibrating.temperature import (
    HIGHEST,
    LOWEST,
    cross_fitted,
    deal_patients,
    fit_temperature,
    measured,
    warn_of_bounds,
)
from dlka_med.errors import InputError


def sample(patient="a", factor=1.0, seed=0, voxels=20_000, has_regions=False, near=True, weight=1.0):
    """Voxels whose labels were drawn by the logits, which are then multiplied."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (3, voxels))
    if has_regions:
        labels = random.random(logits.shape) < expit(logits)
    else:
        labels = (random.random(voxels) > softmax(logits, axis=0).cumsum(axis=0)).sum(axis=0)[None].clip(max=2)
    logits = (factor * logits[None]).astype(np.float32)
    return Sample((False, patient), near, logits, np.ones((1, voxels)), labels.astype(np.uint8), weight, has_regions)


@pytest.mark.parametrize("has_regions", [False, True])
@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_what_multiplied_the_logits_is_the_temperature(factor, has_regions):
    assert fit_temperature([sample(factor=factor, has_regions=has_regions)]) == pytest.approx(factor, rel=0.03)


def test_the_temperature_is_where_the_likelihood_is_largest():
    one = sample(factor=1.8, voxels=500)
    best = fit_temperature([one])
    tried = np.geomspace(0.5, 5, 2001)
    assert best == pytest.approx(tried[np.argmin([one.nll(temperature) for temperature in tried])], rel=3e-3)


def test_weights_count_and_what_lies_far_does_not():
    cold, hot = sample(factor=1.0, voxels=3000), sample(factor=3.0, seed=1, voxels=3000)
    even = fit_temperature([cold, hot])
    assert 1.1 < even < 2.9
    assert (
        fit_temperature([replace(cold, weight=50.0), hot]) < even < fit_temperature([cold, replace(hot, weight=50.0)])
    )
    assert fit_temperature([cold, replace(hot, near=False)]) == pytest.approx(fit_temperature([cold]))
    with pytest.raises(ValueError, match="near"):
        fit_temperature([replace(cold, near=False)])


def test_no_patient_lies_in_two_parts_and_each_part_shows_something():
    samples = [sample(f"p{number % 7}", seed=number, voxels=10, near=number % 7 < 6) for number in range(21)]
    parts = deal_patients(samples)
    assert len(parts) == 5
    patients = [{one.patient for one in part} for part in parts]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 7
    assert all(any(one.near for one in part) for part in parts)
    assert sum(map(len, parts)) == len(samples)
    assert len(deal_patients(samples[:2])) == 2


def test_one_patient_is_too_few():
    one = [sample("a", voxels=10), sample("a", seed=1, voxels=10), sample("b", voxels=10, near=False)]
    with pytest.raises(InputError, match="only 1 held-out patients that show a structure"):
        deal_patients(one)


def test_nobody_is_measured_at_a_temperature_that_he_helped_to_fit():
    parts = [[sample(f"p{number}", 2.0, number, 400)] for number in range(3)]
    before = {one.patient: temperature for one, temperature in cross_fitted(parts)}
    parts[0] = [replace(parts[0][0], logits=10 * parts[0][0].logits)]
    after = {one.patient: temperature for one, temperature in cross_fitted(parts)}
    own = (False, "p0")
    assert before[own] == after[own]
    assert all(before[patient] < after[patient] for patient in before if patient != own)


@pytest.mark.parametrize("has_regions", [False, True])
def test_boastful_logits_are_better_calibrated_on_new_patients(has_regions):
    parts = [[sample(f"p{number}", 3.0, number, 4000, has_regions)] for number in range(4)]
    flat = [(one, 1.0) for part in parts for one in part]
    for before, after in zip(measured(flat), measured(cross_fitted(parts)), strict=True):
        assert after.ece < 0.02 < 0.1 < before.ece
        assert after.nll < before.nll
        assert after.total == before.total == 16_000


@pytest.mark.parametrize(("temperature", "warned"), [(1.5, False), (LOWEST, True), (HIGHEST, True)])
def test_the_end_of_what_is_tried_is_told(temperature, warned, caplog):
    with caplog.at_level(logging.WARNING, "dlka_med"):
        warn_of_bounds(temperature)
    assert ("the end of what is tried" in caplog.text) == warned

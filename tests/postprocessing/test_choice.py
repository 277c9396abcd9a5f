"""What is kept, and that chance is not."""

import numpy as np
import pytest

from dlka_med.inference.postprocess import Step
from dlka_med.postprocessing.choice import LEAST_PATIENTS, decide, steps_of
from dlka_med.postprocessing.trials import Family, Trial

ORGAN = Family("organ")


def trial(gains, false=True, sizes=None, reference=1000):
    """A case whose Dice changes by the first gain if part 2 goes, by the second if part 3 goes too, ...

    Prediction and reference have as many voxels, of which 8 of 10 are in both.
    """
    before, prediction = 0.8, float(reference)
    changes = np.zeros((len(gains) + 2, 1, 2))
    known = 0.0
    for number, gain in enumerate(gains, 2):
        both = (before + gain) * (prediction - 10 * (number - 1) + reference) / 2
        changes[number, 0] = -10, both - 0.8 * reference - known
        known = both - 0.8 * reference
    counts = np.array([[prediction, reference, 0.8 * reference]])
    sizes = [0, 900, *range(10, 10 + len(gains))] if sizes is None else sizes
    parts = np.array([0, 0] + [1] * len(gains))
    return Trial(np.array(sizes), counts, changes, parts * (not false), parts * false)


def decided(gains, patients=None, **more):
    """Of one gain per case, or several."""
    trials = [trial(np.atleast_1d(gain), **more) for gain in gains]
    return decide(ORGAN, trials, ["organ"], [1.0] * len(trials), patients or [str(case) for case in range(len(trials))])


def test_a_trial_changes_as_it_says():
    found = trial([0.05, -0.02])
    assert found.dice(np.array([False, False, True, False])) == pytest.approx([0.85])
    assert found.dice(np.array([False, False, True, True])) == pytest.approx([0.78])
    assert found.dice(np.zeros(4, bool)) == pytest.approx([0.8])


def test_what_helps_every_patient_is_kept():
    gains = np.random.default_rng(0).normal(0.03, 0.01, 20)
    found = decided(gains)
    assert found.kept
    assert (found.step, found.refusal) == (Step("largest", "organ"), None)
    assert found.chance < 0.001
    assert found.mean.gain == pytest.approx(gains.mean())
    assert found.mean.before == pytest.approx(0.8)
    assert found.interval[0] < gains.mean() < found.interval[1]
    assert (found.better, found.worse, found.false_removed) == (20, 0, 20)


def test_chance_is_not_kept():
    """Of steps without any true effect a few in a hundred are kept, though the best of five is taken."""
    random, kept, in_sample = np.random.default_rng(0), 0, 0
    for _ in range(150):
        gains = random.normal(0, 0.02, (24, 4))
        found = decided(gains)
        kept += found.kept
        in_sample += found.step is not None
    assert kept <= 0.08 * 150
    assert in_sample > 0.6 * 150


def test_the_gain_is_that_of_patients_that_did_not_choose():
    """One lucky patient makes a step look good to all others, and itself is measured by those without it."""
    gains = [0.5, *[-0.01] * 9]
    found = decided(gains)
    assert found.step is not None
    assert not found.kept
    assert found.mean.gain < 0 < np.mean(gains)


@pytest.mark.parametrize(("better", "kept"), [(LEAST_PATIENTS - 1, False), (LEAST_PATIENTS, True)])
@pytest.mark.parametrize("others", [0, 3, 20])
def test_what_harms_none_has_to_help_some(better, kept, others):
    """So many fair coins fall on one side with a probability of 1/16, or 1/32; more patients without a change tell
    nothing."""
    found = decided([0.02] * better + [0.0] * others)
    assert (found.kept, found.better, found.worse) == (kept, better, 0)
    assert found.chance == pytest.approx(0.5**better, abs=0.01)


def test_of_few_patients_none_may_get_worse():
    gains = [0.02] * 8 + [-0.001]
    found = decided(gains)
    assert found.interval is None
    assert found.chance < 0.05
    assert found.refusal == "cannot be told from chance"
    assert decided(gains * 2).kept


def test_a_patient_counts_once_however_many_cases_there_are():
    assert not decided([0.02] * 12, ["ann"] * 6 + ["bob"] * 4 + ["eve"] * 2).kept
    assert decided([0.02] * 12, [str(case // 2) for case in range(12)]).kept


def test_true_components_are_not_given_for_dice():
    found = decided([0.02] * 12, false=False)
    assert found.refusal == "more true components go than false ones"
    assert (found.true_removed, found.false_removed) == (12, 0)


def test_what_harms_another_label_is_not_kept():
    trials = [trial([0.05]) for _ in range(12)]
    both = [
        Trial(
            one.sizes,
            np.repeat(one.counts, 2, 0),
            np.concatenate([one.changes, trial([-0.01]).changes], 1),
            one.true,
            one.false,
        )
        for one in trials
    ]
    patients = [str(case) for case in range(12)]
    for family in (ORGAN, Family(None)):
        found = decide(family, both, ["organ", "tumour"], [1.0] * 12, patients)
        assert found.refusal == "tumour worse on other patients"
        assert found.labels["organ"].gain == pytest.approx(0.05)
        assert found.labels["tumour"].gain == pytest.approx(-0.01)
    assert found.mean.gain == pytest.approx(0.02)


def test_nothing_to_do_is_told():
    assert decided([[]] * 8).refusal == "nothing to remove"
    assert decided([-0.1] * 8).refusal == "no better on all patients"
    whole = Trial(np.zeros(1, int), np.full((1, 3), 9.0), np.zeros((1, 1, 2)), np.zeros(1, int), np.zeros(1, int))
    found = decide(Family("organ", of_holes=True), [whole] * 8, ["organ"], [1.0] * 8, list("abcdefgh"))
    assert (found.refusal, found.chance) == ("nothing to fill", None)


def test_volumes_lie_between_those_of_components():
    sizes = [[0, 900, 10, 10, 12], [0, 40, 800], [0, 700]]
    trials = [trial([0.0] * (len(one) - 2), sizes=one) for one in sizes]
    first, *others = steps_of(ORGAN, trials, [2.0, 2.0, 1.0])
    assert first == Step("largest", "organ")
    limits = [step.volume for step in others]
    assert limits == sorted(limits)
    known = [20, 24, 80, 700, 1600, 1800]
    assert [sum(volume < limit for volume in known) for limit in limits] == [1, 2, 3]
    assert all(step.kind == "minimum" for step in others)
    assert steps_of(Family(None), trials, [1.0] * 3) == [Step("largest")]
    assert steps_of(Family("organ", True), trials, [1.0] * 3) == [Step("holes", "organ")]

"""Intervals hold what they promise, tests are wrong as often as they say, patients are not torn apart."""

import itertools

import numpy as np
import pytest
from scipy import stats

from dlka_med.statistics import LEAST_PATIENTS, claim, difference, holm, interval, p_of_best, ranks, seeded_difference

STUDIES = 1000


def alone(cases):
    return [str(case) for case in range(cases)]


def study(rng, patients, kind):
    """Values like Dice of patients with one to three cases each, and their groups."""
    level = {"skewed": rng.beta(9, 1, patients), "symmetric": rng.normal(0.8, 0.1, patients)}[kind]
    cases = rng.integers(1, 4, patients)
    groups = np.repeat(np.arange(patients), cases)
    return level[groups] + rng.normal(0, 0.03, len(groups)), [str(group) for group in groups]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "truth"), [("skewed", 0.9), ("symmetric", 0.8)])
@pytest.mark.parametrize("patients", [20, 40])
def test_intervals_hold_the_truth_as_often_as_they_say(kind, truth, patients):
    rng = np.random.default_rng(patients)
    found = [interval(*study(rng, patients, kind)) for _ in range(STUDIES)]
    share = np.mean([low <= truth <= high for low, high in found])
    assert 0.93 <= share <= 0.97


def test_drawing_cases_instead_of_patients_would_be_wrong():
    """Five cases that say the same tell no more than one."""
    values = np.random.default_rng(0).beta(9, 1, 20)
    once = interval(values, alone(20))
    assert interval(np.repeat(values, 5), np.repeat(alone(20), 5).tolist()) == pytest.approx(once)
    narrow = interval(np.repeat(values, 5), alone(100))
    assert narrow[1] - narrow[0] < 0.6 * (once[1] - once[0])


@pytest.mark.parametrize("labels", [1, 3])
def test_agrees_with_students_interval_where_that_is_right(labels):
    """Of many, evenly spread values; several labels are one mean per patient."""
    values = np.random.default_rng(1).normal(5, 1, (300, labels))
    means = values.mean(axis=1)
    expected = stats.t.interval(0.95, 299, means.mean(), stats.sem(means))
    assert interval(values, alone(300)) == pytest.approx(expected, abs=0.02 * stats.sem(means) * 10)


def test_labels_that_some_cases_lack_are_a_mean_of_means():
    values = np.random.default_rng(2).normal(0, 0.01, (40, 2)) + np.array([1, 3])
    values[:25, 1] = np.nan
    low, high = interval(values, alone(40))
    assert low < 2 < high
    assert high - low < 0.02


def test_too_few_patients_have_no_interval():
    values = np.linspace(0, 1, LEAST_PATIENTS)
    assert interval(values[1:], alone(LEAST_PATIENTS - 1)) is None
    assert interval(values, alone(LEAST_PATIENTS)) is not None
    assert interval(values, ["one", "one", *alone(LEAST_PATIENTS - 2)]) is None
    rare = np.stack([values, np.where(values > 0.5, values, np.nan)], axis=1)
    assert interval(rare, alone(LEAST_PATIENTS)) is None
    assert interval(np.full(20, np.nan), alone(20)) is None
    with pytest.raises(ValueError, match="20 cases need as many groups, got 3"):
        interval(np.ones(20), alone(3))


def test_values_without_spread_have_finite_intervals():
    assert interval(np.full(12, 0.3), alone(12)) == (pytest.approx(0.3), pytest.approx(0.3))
    one_off = np.append(np.ones(11), 0.8)
    low, high = interval(one_off, alone(12), within=(0, 1))
    assert (low, high) == (pytest.approx(one_off.mean() + stats.t.ppf(0.025, 11) * stats.sem(one_off)), 1)


@pytest.mark.slow
def test_runs_that_do_not_differ_are_called_different_as_often_as_stated():
    rng, alarms, outside, claims = np.random.default_rng(3), 0, 0, 0
    for _ in range(STUDIES):
        ours, groups = study(rng, 25, "symmetric")
        theirs = ours + rng.normal(0, 0.02, 25)[np.array(groups, int)] + rng.normal(0, 0.01, len(ours))
        found = difference(ours, theirs, groups)
        alarms += found.p < 0.05
        outside += not found.interval[0] <= 0 <= found.interval[1]
        claims += found.doubt < 0.025
    assert 0.035 <= alarms / STUDIES <= 0.065
    assert 0.03 <= outside / STUDIES <= 0.07
    assert 0.035 <= claims / STUDIES <= 0.065


def test_a_difference_is_paired_and_of_the_common_cases():
    rng = np.random.default_rng(4)
    theirs = rng.beta(4, 1, 30)
    ours = theirs + 0.01 + rng.normal(0, 0.002, 30)
    ours[:3], theirs[3:5] = np.nan, np.nan
    found = difference(ours, theirs, alone(30))
    assert found.mean == pytest.approx(np.nanmean(ours - theirs))
    assert (found.cases, found.patients) == (25, 25)
    assert 0.0095 < found.interval[0] < found.mean < found.interval[1] < 0.0125
    assert found.p == stats.wilcoxon((ours - theirs)[5:]).pvalue
    assert found.doubt == pytest.approx(stats.ttest_1samp((ours - theirs)[5:], 0).pvalue / 2)
    swapped = difference(theirs, ours, alone(30))
    assert (swapped.mean, swapped.p, swapped.doubt) == pytest.approx((-found.mean, found.p, found.doubt))


def test_wilcoxon_is_over_patients():
    rng = np.random.default_rng(5)
    apart = rng.normal(0.3, 1, 12)
    found = difference(np.repeat(apart, 4), np.zeros(48), np.repeat(alone(12), 4).tolist())
    assert found.p == pytest.approx(stats.wilcoxon(apart).pvalue)
    assert (found.cases, found.patients) == (48, 12)


def test_equal_runs_and_too_few_patients():
    values = np.random.default_rng(6).random((15, 2))
    same = difference(values, values, alone(15))
    assert (same.mean, same.interval, same.p, same.doubt) == (0, (0, 0), 1, 0.5)
    sure = difference(values + 0.25, values, alone(15))
    assert (sure.doubt, sure.p < 0.05) == (0, True)
    few = difference(values[:4], values[:4] - 1, alone(4))
    assert (few.mean, few.interval, few.p, few.doubt) == (1, None, None, None)
    assert difference(values * np.nan, values, alone(15)) is None
    with pytest.raises(ValueError, match=r"one shape, got \(15, 2\) and \(15,\)"):
        difference(values, values[:, 0], alone(15))


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1, 1]
    assert holm([]) == []


def test_ranks_know_how_sure_they_are():
    rng = np.random.default_rng(7)
    base = rng.beta(9, 1, 40)
    runs = [base - 0.1, base, base + rng.normal(0, 0.02, 40)]
    runs[0][:2] = np.nan
    (worst, worst_range), *others = ranks(runs, alone(40), higher_is_better=True)
    assert (worst, worst_range) == (3, (3, 3))
    assert sorted(rank for rank, _ in others) == [1, 2]
    assert all(span == (1, 2) for _, span in others)
    assert ranks(runs, alone(40), higher_is_better=False)[0] == (1, (1, 1))


def test_ranks_of_too_few_patients_have_no_span():
    runs = [np.linspace(0.5, 0.6, LEAST_PATIENTS) + apart for apart in (0.2, 0.1, 0)]
    few = [run[1:] for run in runs]
    assert ranks(few, alone(LEAST_PATIENTS - 1), higher_is_better=True) == [(1, None), (2, None), (3, None)]
    assert ranks(runs, alone(LEAST_PATIENTS), higher_is_better=True)[0] == (1, (1, 1))
    one_patient = ["a", "a", *alone(LEAST_PATIENTS - 2)]
    assert ranks(runs, one_patient, higher_is_better=True)[0] == (1, None)


@pytest.mark.parametrize(("higher", "winner"), [(True, "a is better than b"), (False, "b is better than a")])
def test_what_may_be_claimed(higher, winner):
    rng = np.random.default_rng(8)
    theirs = rng.random(20)
    found = difference(theirs + 0.1 + rng.normal(0, 0.05, 20), theirs, alone(20))
    said = claim("a", "b", found, higher_is_better=higher, p=found.p, digits=3)
    assert winner in said
    assert said.startswith(f"a minus b is +{found.mean:.3f} (95% interval +0.0")
    assert "the probability that this is false is below 0.1%" in said
    assert "neither may be called better" in claim("a", "b", found, higher_is_better=higher, p=0.06, digits=3)
    few = difference(theirs[:1], theirs[:1] - 1, ["x"])
    assert "one patient is too few to claim anything (at least 10 with each label)" in claim(
        "a", "b", few, higher_is_better=higher, p=few.p, digits=3
    )
    rare = np.stack([theirs, np.where(np.arange(20) < 5, theirs, np.nan)], axis=1)
    few = difference(rare + 0.1, rare, alone(20))
    assert claim("a", "b", few, higher_is_better=higher, p=few.p, digits=3).endswith(
        "; 20 patients are too few to claim anything (at least 10 with each label)"
    )


def test_what_most_patients_and_the_mean_say_of_each_other_is_no_claim():
    """Most patients gain a little, a few lose much: Wilcoxon's test is sure of the gain, the interval of the loss."""
    rng = np.random.default_rng(2)
    sure = 0
    for _ in range(300):
        apart = np.where(rng.random(38) < 0.85, rng.normal(0.003, 0.003, 38), -rng.exponential(0.1, 38))
        found = difference(apart, np.zeros(38), alone(38))
        if found.mean < 0 < np.median(apart) and found.p < 0.05 and found.interval[1] < 0:
            sure += 1
            said = claim("a", "b", found, higher_is_better=True, p=found.p, digits=3)
            assert "neither may be called better" in said
    assert sure > 3


def trained_twice(rng, seeds, patients, *, of_seeds, of_network=0.02, of_both=0.02):
    """Values (seeds, patients) of two networks that are equally good; what differs is drawn."""
    level = rng.normal(0.8, 0.1, patients)
    return [
        level
        + rng.normal(0, of_network, patients)
        + rng.normal(0, of_seeds, (seeds, 1))
        + rng.normal(0, of_both, (seeds, patients))
        for _ in range(2)
    ]


@pytest.mark.parametrize("of_seeds", [0.0, 0.01, 0.03])
def test_networks_that_do_not_differ_are_called_different_as_often_as_stated(of_seeds):
    rng, studies, alarms, of_patients_alone = np.random.default_rng(9), 600, 0, 0
    for _ in range(studies):
        ours, theirs = trained_twice(rng, 3, 30, of_seeds=of_seeds)
        found = seeded_difference(ours, theirs, alone(30))
        assert (found.p < 0.05) != (found.interval[0] <= 0 <= found.interval[1])
        alarms += found.p < 0.05
        of_patients_alone += stats.ttest_rel(ours.mean(0), theirs.mean(0)).pvalue < 0.05
    assert 0.02 <= alarms / studies <= 0.075
    assert (of_patients_alone / studies > 0.2) == (of_seeds > 0)


def test_a_seeded_difference_by_hand():
    """The variance of patients, that of the seeds of both, less what the latter hold of the patients."""
    ours, theirs = trained_twice(np.random.default_rng(10), 4, 20, of_seeds=0.02)
    theirs = theirs[:3]
    apart = ours.mean(0) - theirs.mean(0)
    of_patients = apart.var(ddof=1) / 20
    of_seeds = [run.mean(1).var(ddof=1) / len(run) for run in (ours, theirs)]
    residuals = [run - run.mean(1, keepdims=True) - run.mean(0) + run.mean() for run in (ours, theirs)]
    twice = [(left**2).sum() / (19 * (len(left) - 1) * 20 * len(left)) for left in residuals]
    whole = of_patients + sum(of_seeds) - sum(twice)
    freedom = whole**2 / (of_patients**2 / 19 + of_seeds[0] ** 2 / 3 + of_seeds[1] ** 2 / 2)
    found = seeded_difference(ours, theirs, alone(20))
    assert found.mean == pytest.approx(apart.mean())
    assert found.interval == pytest.approx(stats.t.interval(0.95, freedom, apart.mean(), np.sqrt(whole)))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(apart.mean()) / np.sqrt(whole), freedom))
    assert (found.doubt, found.cases, found.patients) == (found.p / 2, 20, 20)
    swapped = seeded_difference(theirs, ours, alone(20))
    assert (swapped.mean, swapped.p) == pytest.approx((-found.mean, found.p))


def test_seeds_that_all_say_the_same_leave_the_patients():
    rng = np.random.default_rng(11)
    ours, theirs = rng.random((2, 25, 2))
    ours[:4], theirs[4:6] = np.nan, np.nan
    found = seeded_difference(np.stack([ours] * 2), np.stack([theirs] * 3), alone(25))
    alike = difference(ours, theirs, alone(25))
    assert (found.mean, found.doubt, found.cases) == pytest.approx((alike.mean, alike.doubt, alike.cases))
    same = seeded_difference(np.stack([ours] * 2), np.stack([ours] * 2), alone(25))
    assert (same.mean, same.interval, same.p, same.doubt) == (0, (0, 0), 1, 0.5)


def test_cases_of_one_patient_tell_no_more_than_one():
    ours, theirs = trained_twice(np.random.default_rng(12), 3, 15, of_seeds=0.01)
    once = seeded_difference(ours, theirs, alone(15))
    often = seeded_difference(*(np.repeat(run, 4, 1) for run in (ours, theirs)), np.repeat(alone(15), 4).tolist())
    assert often.interval == pytest.approx(once.interval)
    assert (often.cases, often.patients) == (60, 15)


def test_a_seed_that_lacks_a_value_is_no_mistake():
    ours, theirs = trained_twice(np.random.default_rng(13), 3, 15, of_seeds=0.01)
    ours[1, :3], theirs[0] = np.nan, np.nan
    found = seeded_difference(ours, theirs, alone(15))
    assert found.mean == pytest.approx((np.nanmean(ours, 0) - np.nanmean(theirs[1:], 0)).mean())
    assert np.isfinite(found.interval).all()
    assert seeded_difference(ours * np.nan, theirs, alone(15)) is None


def test_one_seed_or_too_few_patients_have_no_seeded_interval():
    values = np.random.default_rng(14).random((2, 9))
    few = seeded_difference(values, values[::-1], alone(9))
    assert (few.mean, few.interval, few.p, few.doubt) == (pytest.approx(0), None, None, None)
    with pytest.raises(ValueError, match=r"two seeds or more of the same cases are needed, got \(1, 9\) and \(2, 9\)"):
        seeded_difference(values[:1], values, alone(9))


def test_a_claim_counts_the_seeds():
    ours, theirs = trained_twice(np.random.default_rng(15), 3, 30, of_seeds=0.001)
    found = seeded_difference(ours + 0.1, theirs[:2], alone(30))
    said = claim("a", "b", found, higher_is_better=True, p=found.p, digits=3, seeds=(3, 2))
    assert "30 patients, 3 and 2 seeds, p " in said
    assert "a is better than b" in said


def test_ranks_hold_what_other_seeds_would_have_brought():
    """Three equally good networks whose seeds move the mean: patients alone would be sure of a rank again and again."""
    draw = np.random.default_rng(5)
    sure = {"patients": 0, "seeds": 0}
    for _ in range(60):
        patients = draw.normal(0.8, 0.1, 30)
        seeds = [[patients + draw.normal(0, 0.01) + draw.normal(0, 0.005, 30) for _ in range(3)] for _ in range(3)]
        means = [np.mean(each, axis=0) for each in seeds]
        for name, known in (("patients", None), ("seeds", seeds)):
            placed = ranks(means, alone(30), True, known)
            sure[name] += sum(low == high for _, (low, high) in placed)
    assert sure["patients"] > 40
    assert sure["seeds"] < 18  # of 180
    apart = [[patients + 0.2 * network + draw.normal(0, 0.01, 30) for _ in range(3)] for network in range(3)]
    assert [span for _, span in ranks([np.mean(each, axis=0) for each in apart], alone(30), True, apart)] == [
        (3, 3),
        (2, 2),
        (1, 1),
    ]


@pytest.mark.parametrize("patients", [6, 8])
def test_the_best_of_several_by_chance_counts_all_flips(patients):
    """Against all flips of signs one by one, patients of several cases flipped as one."""
    gains = np.random.default_rng(patients).normal(0.3, 1, (2 * patients, 3))
    groups = [str(case % patients) for case in range(2 * patients)]
    sums = gains[:patients] + gains[patients:]
    scaled = sums / np.sqrt((sums**2).sum(axis=0))
    flips = itertools.product((1, -1), repeat=patients)
    largest = np.array([(np.array(signs)[:, None] * scaled).sum(axis=0).max() for signs in flips])
    for chosen in range(3):
        expected = (largest >= scaled[:, chosen].sum() - 1e-12).mean()
        assert p_of_best(gains, chosen, groups) == pytest.approx(expected)


def test_the_best_of_several_among_many_patients():
    gains = np.random.default_rng(0).normal([0, 0, 0.6, 0, 0], 1, (40, 5))
    groups = [str(case) for case in range(40)]
    found = [p_of_best(gains, chosen, groups) for chosen in range(5)]
    assert found[2] < 0.01 < min(*found[:2], *found[3:])
    alone = p_of_best(gains[:, 2:3], 0, groups)
    assert alone < found[2] + 1e-9
    assert alone == pytest.approx(stats.ttest_1samp(gains[:, 2], 0, alternative="greater").pvalue, abs=0.003)


def test_nothing_to_gain_is_chance():
    assert p_of_best(np.zeros((7, 2)), 0, list("abcdefg")) == 1

"""Claims of what was trained with several seeds hold their spread."""

import numpy as np
import pytest

from dlka_med.evaluation.against import compared, paired
from dlka_med.evaluation.measures import HEADLINES, Protocol
from dlka_med.evaluation.score import LabelScore
from dlka_med.evaluation.summary import summarise
from dlka_med.statistics import seeded_difference

CASES = [f"case{number:02}" for number in range(20)]
PATIENTS = {case: case for case in CASES}


def rows(dice):
    values = [dict.fromkeys(Protocol().measures("mm")) | dict.fromkeys(HEADLINES, float(value)) for value in dice]
    return [LabelScore(case, "organ", "ok", of_case) for case, of_case in zip(CASES, values, strict=True)]


def comparison(ours, theirs):
    """Of two networks by the Dice (seeds, cases) of each."""
    seeds = {"a": [rows(dice) for dice in ours], "b": [rows(dice) for dice in theirs]}
    scores = {"a": rows(ours.mean(0)), "b": rows(theirs.mean(0))}
    evaluation = summarise(scores["a"], CASES, ["organ"], Protocol(), groups=PATIENTS)
    return compared(evaluation, scores, PATIENTS, seeds)


@pytest.fixture
def apart():
    """Two networks whose patients are sure of a difference that their seeds can make."""
    rng = np.random.default_rng(0)
    level = rng.uniform(0.7, 0.9, 20)
    ours, theirs = (level + rng.normal(0, 0.002, (3, 20)) for _ in range(2))
    return ours + np.array([[-0.03], [0.0], [0.06]]), theirs + np.array([[-0.03], [0.0], [0.03]])


def test_what_seeds_can_make_is_not_left_to_the_patients(apart):
    result = comparison(*apart)
    (found,) = result.comparisons
    alone = found.differences["dice"]["mean"]
    assert alone.interval[0] > 0
    assert alone.p < 0.001
    assert found.with_seeds["dice"] == seeded_difference(*apart, CASES)
    assert "3 and 3 seeds" in found.claims[0]
    assert "neither may be called better" in found.claims[0]
    written = result.summary()["comparisons"][0]
    assert written["differences"]["dice"]["mean"]["interval"] == alone.interval
    assert written["with_seeds"].keys() == {"dice", "hd95_mm", "nsd"}
    assert written["with_seeds"]["dice"]["interval"] == found.with_seeds["dice"].interval


def test_seeds_that_agree_leave_the_claim(apart):
    ours, theirs = (run - run.mean(1, keepdims=True) + 0.8 for run in apart)
    (found,) = comparison(ours + 0.02, theirs).comparisons
    assert "a is better than b" in found.claims[0]


def test_of_one_seed_the_claim_says_so(apart):
    ours, theirs = apart
    (found,) = comparison(ours, theirs[:1]).comparisons
    assert found.with_seeds == {}
    assert all("of one seed no spread of seeds is known" in said for said in found.claims)
    assert not any("seeds, p" in said for said in found.claims)


def score(case, value):
    """Of a label that the reference lacks: rightly not found if `value` is None, else found."""
    status = "both_empty" if value is None else "false_positive" if value == 0 else "ok"
    values = dict.fromkeys(Protocol().measures("mm"))
    if value is not None:
        values |= {"dice": value, "nsd": value, "hd95": 40.0 if status == "false_positive" else 2.0}
    return LabelScore(case, "organ", status, values)


def test_false_positives_are_not_lost_where_the_other_rightly_finds_nothing():
    """Eight patients have the organ, and twelve do not: b finds it in ten of these."""
    ours = [score(case, 0.8 if place < 8 else None) for place, case in enumerate(CASES)]
    theirs = [score(case, 0.8 if place < 8 else 0.0 if place < 18 else None) for place, case in enumerate(CASES)]
    evaluation = summarise(ours, CASES, ["organ"], Protocol(), groups=PATIENTS)
    (found,) = compared(evaluation, {"a": ours, "b": theirs}, PATIENTS).comparisons
    apart = found.differences["dice"]["organ"]
    assert (apart.mean, apart.cases, apart.patients) == (pytest.approx(10 / 18), 18, 18)
    first, second = paired((ours, theirs), CASES, "dice", ["organ"])
    assert np.nanmean(first - second) == pytest.approx(apart.mean), "dots of a picture are those of the mean"
    assert found.differences["hd95"]["mean"].mean == pytest.approx(-40 * 10 / 18)
    assert "a is better than b" in found.claims[0]
    assert "a is better than b" in found.claims[1]


def test_ranks_and_seeds_do_not_lose_them_either():
    right = [score(case, 0.8 if place < 12 else None) for place, case in enumerate(CASES)]
    wrong = [score(case, 0.8 if place < 12 else 0.0) for place, case in enumerate(CASES)]
    evaluation = summarise(right, CASES, ["organ"], Protocol(), groups=PATIENTS)
    seeds = {"a": [right, right], "b": [wrong, wrong], "c": [right, right]}
    scores = {name: runs[0] for name, runs in seeds.items()}
    result = compared(evaluation, scores, PATIENTS, seeds)
    assert result.comparisons[0].with_seeds["dice"].mean == pytest.approx(8 / 20)
    assert result.comparisons[1].with_seeds["dice"].mean == 0
    assert {name: rank for name, (rank, _) in result.ranks["dice"].items()} == {"a": 1.5, "b": 3, "c": 1.5}

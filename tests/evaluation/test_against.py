"""Claims of what was trained with several seeds hold their spread."""

import numpy as np
import pytest

from dlka_med.evaluation.against import compared
from dlka_med.evaluation.measures import HEADLINES, Protocol
from dlka_med.evaluation.score import LabelScore
from dlka_med.evaluation.summary import summarise
from dlka_med.statistics import seeded_difference

CASES = [f"case{number:02}" for number in range(20)]
PATIENTS = {case: case for case in CASES}


def rows(dice):
    values = [dict.fromkeys(Protocol().measures("mm")) | dict.fromkeys(HEADLINES, float(value)) for value in dice]
    return [LabelScore(case, "organ", "matched", of_case) for case, of_case in zip(CASES, values, strict=True)]


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

"""Seeds become one figure per case."""

from types import SimpleNamespace

import numpy as np
import pytest

from dlka_med.comparing.result import averaged
from dlka_med.evaluation.measures import Protocol
from dlka_med.evaluation.score import score_masks


def seed(*masks):
    """What one training found in as many cases, where the reference has nothing."""
    nothing = masks[0] & False
    rows = [
        score_masks(f"case{place}", "organ", mask, nothing, (1, 1), (8, 9), Protocol(), None)
        for place, mask in enumerate(masks)
    ]
    return SimpleNamespace(scores=tuple(rows))


def test_seeds_that_rightly_find_nothing_count_beside_one_that_finds_something():
    nothing, something = np.zeros((8, 9), bool), np.eye(8, 9, dtype=bool)
    runs = {0: seed(nothing, nothing), 1: seed(something, nothing), 2: seed(nothing, nothing)}
    wrong, right = averaged(runs)
    assert wrong.status == "false_positive"
    assert wrong.values["dice"] == wrong.values["boundary_iou"] == pytest.approx(2 / 3)
    assert wrong.values["hd95"] == pytest.approx((8**2 + 9**2) ** 0.5 / 3)
    assert wrong.values["volume_error_percent"] is None
    assert right.status == "both_empty"
    assert set(right.values.values()) == {None}

"""Progress of a run and the learning rate that follows from it."""

import math

import pytest

from dlka_med.training.schedule import Budget, learning_rate_factor


@pytest.mark.parametrize(
    ("epochs", "minutes", "step", "seconds", "progress"),
    [
        (10, None, 25, 1e9, 0.25),
        (None, 2, 10**6, 30, 0.25),
        (10, 2, 25, 90, 0.75),
        (10, 2, 90, 12, 0.9),
        (10, 2, 101, 0, 1.0),
    ],
)
def test_progress_is_the_largest_share(epochs, minutes, step, seconds, progress):
    assert Budget(epochs, minutes, steps_per_epoch=10).progress(step, seconds) == pytest.approx(progress)


def test_what_validates_does_not_train():
    budget = Budget(None, 2, steps_per_epoch=10)
    assert budget.progress(1, 50, validating=20) == pytest.approx(0.5)
    assert budget.progress(1, 100, validating=20) == 1
    assert budget.progress(1, 1, validating=300) == 1


@pytest.mark.parametrize(
    ("seconds", "validating", "estimate", "affordable"),
    [
        (600, 0, 60, False),  # 120 of the first 720 seconds would be 17 %
        (600, 0, 50, True),
        (600, 40, 50, False),
        (1190, 91, 45, False),  # only the minutes that there are count
        (1190, 89, 45, True),
        (60, 0, 30, False),
    ],
)
def test_a_validation_has_to_leave_room_for_the_last_one(seconds, validating, estimate, affordable):
    budget = Budget(None, 20, 10)
    share = (validating + 2 * estimate) / min(seconds + 2 * estimate, 1200)
    assert (share <= 0.15) == affordable
    assert budget.affords_validation(seconds, validating, estimate) == affordable
    assert Budget(20, None, 10).affords_validation(seconds, validating, estimate)


def test_time_left_follows_the_pace():
    budget = Budget(epochs=4, minutes=None, steps_per_epoch=10)
    assert budget.seconds_left(10, 60) == pytest.approx(180)
    assert budget.seconds_left(0, 3) == math.inf
    assert Budget(4, 1.5, 10).seconds_left(10, 60) == pytest.approx(30)


@pytest.mark.parametrize("schedule", ["polynomial", "cosine"])
@pytest.mark.parametrize("warmup", [0.0, 0.1])
def test_rate_rises_in_the_warmup_then_falls_to_zero(schedule, warmup):
    rates = [learning_rate_factor(i / 1000, schedule, warmup) for i in range(1001)]
    top = max(range(1001), key=rates.__getitem__)
    assert rates[top] == pytest.approx(1)
    assert top == pytest.approx(1000 * warmup, abs=1)
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[0] > 0
    assert rates[-1] == pytest.approx(0, abs=1e-12)


def test_known_values():
    assert learning_rate_factor(0.5, "cosine") == pytest.approx(0.5)
    assert learning_rate_factor(0.5, "polynomial") == pytest.approx(0.5**0.9)
    assert learning_rate_factor(0.05, "cosine", 0.1) == pytest.approx(0.5)

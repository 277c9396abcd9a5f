"""Which weights a run keeps, on which cases it judges them, and what of its minutes goes into that."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dlka_med.run_folder import RunFolder
from dlka_med.training.clock import Clock
from dlka_med.training.schedule import Budget, learning_rate_factor
from dlka_med.training.train import train
from dlka_med.training.validation import Validation

from .runs import changed


class Network(nn.Module):
    def __init__(self, quality):
        super().__init__()
        self.quality = nn.Parameter(torch.tensor(float(quality)))


@pytest.fixture
def now():
    """A clock that stands still unless it is told how many seconds pass."""
    time = SimpleNamespace(seconds=0.0)
    time.tell = lambda: time.seconds
    return time


@pytest.fixture
def trainer():
    precision = SimpleNamespace(forward_context=nullcontext)
    return SimpleNamespace(
        global_rank=0,
        world_size=1,
        is_global_zero=True,
        precision_plugin=precision,
        global_step=0,
        num_training_batches=60,
        should_stop=False,
    )


def task_of(quality, epoch=1):
    return SimpleNamespace(
        shipped_network=Network(quality), row={"epoch": epoch}, device=torch.device("cpu"), progress=0.0
    )


def test_best_weights_are_those_of_the_best_epoch(config, tmp_path, monkeypatch):
    scores = iter([0.2, 0.9, 0.4, 0.3])
    kept = []
    monkeypatch.setattr("dlka_med.training.train.dice", lambda *_: float(kept[-1]))
    monkeypatch.setattr(Validation, "on_train_epoch_start", lambda *_: kept.append(next(scores)), raising=False)
    run = train(changed(config, epochs=4, steps_per_epoch=1, validate_every=1), tmp_path / "run")
    assert run.weights_metadata == {"epoch": "2", "validation_dice": "0.900000"}


def labelled(case):
    return True


def validation_of(cases, run, clock, scores):
    return Validation(
        lambda network, case: [scores[network.quality.item(), case]], cases, labelled, ["ball"], 1, run, clock
    )


def test_after_a_change_of_the_cases_the_best_weights_are_scored_again(tmp_path, trainer):
    """0.9 on a and b is 0.2 on c: weights with 0.5 on c are better, and must not stay unshipped for ever."""
    scores = {(1, "a"): 0.9, (1, "b"): 0.9, (1, "c"): 0.2, (2, "c"): 0.5, (3, "c"): 0.4}
    run, budget = RunFolder(tmp_path), Budget(10, None, 1)
    before = validation_of(["a", "b"], run, Clock(budget), scores)
    before.validate(trainer, task_of(1))
    assert run.weights_metadata == {"epoch": "1", "validation_dice": "0.900000"}

    after = validation_of(["c"], run, Clock(budget), scores)
    after.load_state_dict(before.state_dict())
    after.on_train_start(trainer, task_of(7, epoch=5))
    assert run.weights_metadata == {"epoch": "1", "validation_dice": "0.200000"}
    for quality in (2, 3):
        after.validate(trainer, task_of(quality, epoch=quality))
    assert run.weights_metadata == {"epoch": "2", "validation_dice": "0.500000"}
    assert run.load_weights()["quality"] == 2

    same = validation_of(["c"], run, Clock(budget), {})
    same.load_state_dict(after.state_dict())
    same.on_train_start(trainer, task_of(7))
    assert same.best == 0.5


def test_of_equal_weights_the_later_are_kept(tmp_path, trainer):
    validation = validation_of(["a"], RunFolder(tmp_path), Clock(Budget(10, None, 1)), {(1, "a"): 0.0, (2, "a"): 0.0})
    for quality in (1, 2):
        validation.validate(trainer, task_of(quality, epoch=quality))
    assert validation.run.load_weights()["quality"] == 2


def test_where_nothing_can_be_measured_the_latest_weights_are_kept(tmp_path, trainer, caplog):
    """A network that finds the ball in images without one scores 0; the first weights must not ship for that."""
    scores = {(quality, case): value for quality, value in ((1, None), (2, 0.0), (3, 0.0)) for case in "ab"}
    run, clock = RunFolder(tmp_path), Clock(Budget(10, None, 1))
    validation = validation_of(["a", "b"], run, clock, scores)
    validation.is_labelled = lambda case: False
    validation.on_train_start(trainer, task_of(0))
    assert "none of the 2 validation cases holds a label" in caplog.text
    for quality in (1, 2, 3):
        task = task_of(quality, epoch=quality)
        validation.validate(trainer, task)
        assert "dice" not in task.row
        assert run.weights_metadata == {"epoch": str(quality)}
    one = validation_of(["a", "b"], run, clock, scores)
    one.is_labelled = "b".__eq__
    one.on_train_start(trainer, task_of(0))
    assert one.cases == ["a", "b"]


def test_a_checkpoint_of_an_earlier_version_is_scored_again(tmp_path, trainer):
    run = RunFolder(tmp_path)
    run.save_weights(Network(1).state_dict(), {"epoch": 3, "validation_dice": "0.900000"})
    validation = validation_of(["c"], run, Clock(Budget(10, None, 1)), {(1, "c"): 0.2})
    validation.load_state_dict({"best": 0.9})
    validation.on_train_start(trainer, task_of(7))
    assert run.weights_metadata == {"epoch": "3", "validation_dice": "0.200000"}


def simulate(now, trainer, run, *, minutes, every, cases, case_seconds, step_seconds=1.0, slow_start=0.0):
    """A run of 60 steps per epoch; which share of it was over before each step, and its clock and validation."""
    clock = Clock(Budget(None, minutes, 60), now.tell)
    shares, taken = [], iter([slow_start])

    def score(network, case):
        now.seconds += next(taken, 0.0) + case_seconds
        return [0.5]

    names = [f"c{number}" for number in range(cases)]
    validation = Validation(score, names, labelled, ["ball"], every, run, clock)
    task = task_of(1)
    clock.on_train_start(trainer, task)
    now.seconds += 100  # the first step, which compiles
    for epoch in range(1, 1000):
        clock.on_train_epoch_start(trainer, task)
        task.row = {"epoch": epoch}
        for step in range(60):
            shares.append(task.progress)
            now.seconds += step_seconds
            trainer.global_step += 1
            clock.on_train_batch_end(trainer, task, None, None, step)
            if trainer.should_stop:
                break
        clock.look(task)
        validation.due = validation.is_due(epoch, last=trainer.should_stop)
        validation.on_train_epoch_end(trainer, task)
        if trainer.should_stop:
            return shares, clock, validation
    raise AssertionError("the run does not end")


@pytest.mark.parametrize(
    ("every", "cases", "case_seconds", "slow_start"),
    [
        (4, 54, 10, 0),  # nine minutes at minute four
        (1, 1000, 0.5, 0),
        (1, 20, 1.5, 0),
        (4, 300, 1, 20),
        (1, 40, 1, 0),
        (1, 2, 0.5, 0),
        (1000, 54, 10, 0),  # the last validation is the first
    ],
)
def test_validation_keeps_to_its_share_of_the_minutes(now, trainer, tmp_path, every, cases, case_seconds, slow_start):
    shares, clock, validation = simulate(
        now,
        trainer,
        RunFolder(tmp_path),
        minutes=20,
        every=every,
        cases=cases,
        case_seconds=case_seconds,
        slow_start=slow_start,
    )
    assert 0.95 * 1200 < clock.seconds < 1.05 * 1200
    assert clock.validating <= 0.155 * 1200
    assert shares == sorted(shares)
    assert learning_rate_factor(shares[-1], "cosine") < 0.005, "the rate falls to nothing within the minutes that train"
    half = shares[len(shares) // 2]
    assert half == pytest.approx(0.5, abs=0.06), "and evenly over them"
    assert len(validation.scored) == min(cases, max(int(36 / case_seconds), 1)) or slow_start


def test_a_case_that_takes_longer_than_all_may_is_still_validated(now, trainer, tmp_path):
    _, clock, validation = simulate(
        now, trainer, RunFolder(tmp_path), minutes=20, every=1, cases=9, case_seconds=50, step_seconds=2
    )
    assert validation.scored == ["c0"]
    assert 0.95 * 1200 < clock.seconds < 1.05 * 1200
    assert clock.validating <= 0.15 * 1200


def test_without_a_limit_of_minutes_all_cases_validate_each_time(now, trainer, tmp_path):
    clock = Clock(Budget(5, None, 60), now.tell)
    seen = []

    def score(network, case):
        now.seconds += 1e5
        seen.append(case)
        return [None]

    validation = Validation(score, ["a", "b"], labelled, ["ball"], 2, RunFolder(tmp_path), clock)
    for epoch in range(1, 6):
        clock.look(task_of(1))
        validation.due = validation.is_due(epoch, last=epoch == 5)
        validation.on_train_epoch_end(trainer, task_of(1, epoch))
    assert seen == ["a", "b"] * 3


def test_more_minutes_on_resume_let_more_cases_validate(now, trainer, tmp_path):
    run = RunFolder(tmp_path)
    _, _, short = simulate(now, trainer, run, minutes=1, every=1, cases=30, case_seconds=1)
    assert len(short.scored) == 1

    def score(network, case):
        now.seconds += 1
        return [0.5]

    longer = Validation(score, short.cases, labelled, ["ball"], 1, run, Clock(Budget(None, 20, 60), now.tell))
    longer.load_state_dict(short.state_dict())
    longer.on_train_start(trainer, task_of(1))
    assert len(longer.scored) == 30

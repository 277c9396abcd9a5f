"""The clock of a run."""

import itertools
import time
from types import SimpleNamespace

import pytest
import torch

from dlka_med.training.clock import TIME_OF, Clock
from dlka_med.training.schedule import Budget, learning_rate_factor
from dlka_med.training.task import SegmentationTask
from dlka_med.training.train import train

from .runs import changed, rows_of


def test_the_clock_ends_a_run_and_drives_the_rate(config, tmp_path, monkeypatch):
    now = itertools.count(step=0.25)
    monkeypatch.setitem(TIME_OF, "wall", lambda: next(now))
    seen = []
    start = SegmentationTask.on_train_batch_start

    def start_and_look(self, batch, index):
        start(self, batch, index)
        seen.append((self.progress, self.row["learning_rate"]))

    monkeypatch.setattr(SegmentationTask, "on_train_batch_start", start_and_look)
    config = changed(config, epochs=None, minutes=0.12, steps_per_epoch=3, validate_every=1000)
    run = train(config, tmp_path / "run")
    assert rows_of(run)[-1]["dice"], "the last epoch validates"
    shares = [share for share, _ in seen]
    assert shares[0] == 0
    assert shares == sorted(shares)
    assert 0.7 < shares[-1] < 1
    assert [rate for _, rate in seen] == pytest.approx([0.01 * learning_rate_factor(s, "cosine") for s in shares])

    steps = len(seen)
    train(config, tmp_path / "run", resume=True)
    assert len(seen) == steps, "a finished run has nothing to do"
    train(changed(config, minutes=0.2), tmp_path / "run", resume=True, extend=True)
    assert len(seen) > steps
    assert 0.5 < seen[steps][0] < 0.95


def test_a_checkpoint_of_an_earlier_version_is_understood():
    clock = Clock(Budget(None, 2, 10))
    clock.load_state_dict({"seconds": 30.0, "reserve": 20.0})
    assert clock.progress(step=5) == pytest.approx(0.3)


def test_several_devices_agree_once_a_second_and_guess_between(monkeypatch):
    """Steps take 0.3 s; every third or so waits for the first device, whose clock is ahead by 1000 s."""
    now = SimpleNamespace(seconds=0.0)
    asked = []

    def agree(values, device):
        asked.append(values)
        return [value + 1000 for value in values]

    monkeypatch.setattr("dlka_med.training.clock.agree", agree)
    trainer = SimpleNamespace(global_step=0, world_size=2, num_training_batches=100, should_stop=False)
    task = SimpleNamespace(progress=0.0, device=torch.device("cpu"))
    clock = Clock(Budget(None, 1000, 100), lambda: now.seconds)
    clock.on_train_start(trainer, task)
    clock.on_train_epoch_start(trainer, task)
    for step in range(100):
        now.seconds += 0.3
        clock.on_train_batch_end(trainer, task, None, None, step)
        assert clock.seconds == pytest.approx(1000 + 0.3 * step, abs=0.01)
    assert 20 < len(asked) < 40


def test_the_processor_clock_tells_work_and_not_waiting(monkeypatch):
    threads = torch.get_num_threads()
    clock = Clock(Budget(None, 10, 10), TIME_OF["processor"])
    before, began = clock.now(), time.process_time()
    time.sleep(0.3)
    assert clock.now() - before < 0.1
    while time.process_time() - began < 0.3:
        pass
    worked = clock.now() - before
    assert 0.3 / torch.get_num_threads() <= worked < 0.5
    half = clock.now()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2 * threads)
    assert clock.now() == pytest.approx(half / 2, rel=0.05)


def test_a_run_may_be_timed_by_work(config, tmp_path, monkeypatch):
    """With a clock that says nothing was done, only the epochs can end it."""
    monkeypatch.setitem(TIME_OF, "processor", lambda: 0.0)
    timed = changed(config, epochs=2, minutes=0.001, steps_per_epoch=2, clock="processor", accelerator="cpu")
    rows = rows_of(train(timed, tmp_path / "run"))
    assert [int(row["step"]) for row in rows] == [2, 4]
    assert [float(row["minutes"]) for row in rows] == [0, 0]


def test_a_finished_run_stays_finished_however_quick_its_last_validation_is():
    """The first took 2 s of the minute, and 2 s were kept back for the last, which takes no time."""
    now = SimpleNamespace(seconds=0.0)
    trainer = SimpleNamespace(global_step=0, world_size=1, num_training_batches=100, should_stop=False)
    task = SimpleNamespace(progress=0.0, device=torch.device("cpu"))
    clock = Clock(Budget(None, 1, 100), lambda: now.seconds)
    clock.on_train_start(trainer, task)
    clock.on_train_batch_end(trainer, task, None, None, 0)
    clock.validated(task, 2.0)
    now.seconds = 58.0
    clock.on_train_batch_end(trainer, task, None, None, 1)
    assert (task.progress, trainer.should_stop) == (1, True)
    clock.validated(task, 0.0)
    for minutes, progress in ((1, 1), (2, 56 / 118)):
        resumed = Clock(Budget(None, minutes, 100))
        resumed.load_state_dict(clock.state_dict())
        assert resumed.progress(step=2) == pytest.approx(progress)

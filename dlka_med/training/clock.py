"""How long a run has trained and validated, and how far it has come."""

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytorch_lightning as pl
import torch

from dlka_med.training.devices import agree
from dlka_med.training.schedule import Budget
from dlka_med.training.task import SegmentationTask

LOOK_EVERY = 1.0  # seconds between two looks at the clock where devices have to agree on it


def work_time() -> float:
    """Seconds of work of this process as if all its threads always worked, whatever other programs take."""
    return time.process_time() / torch.get_num_threads()


TIME_OF = {"wall": time.monotonic, "processor": work_time}


class Clock(pl.Callback):
    """Measures the time, tells the task its progress and ends the run; all devices agree on it.

    Args:
        now: tells the time, in seconds.
        stop: whether somebody wants the run to end with this step.

    Attributes:
        seconds: of training and validation so far, over all resumed parts.
        validating: of these, spent on validations.
        estimate: seconds of one validation, as measured last; None before the first.
        reached: the largest progress so far; a last validation that is quick does not make a finished run unfinished.
        stopped: whether somebody wanted it to end.
    """

    def __init__(
        self, budget: Budget, now: Callable[[], float] = time.monotonic, stop: Callable[[], bool] = lambda: False
    ) -> None:
        self.budget, self.now, self.stop = budget, now, stop
        self.stopped = False
        self.seconds = self.validating = 0.0
        self.estimate: float | None = None
        self.reached = 0.0
        self._zero = self._started_with = 0.0
        self._first_step = True
        self._looked_at = self._pace = 0.0
        self._steps = self._blind_steps = 0

    @property
    def reserve(self) -> float:
        """Seconds that do not train: the validations so far, and the last one."""
        return self.validating + (self.budget.longest_validation if self.estimate is None else self.estimate)

    def progress(self, step: int) -> float:
        """Share of the run that is over; it never falls."""
        return max(self.reached, self.budget.progress(step, self.seconds - self.validating, self.reserve))

    def seconds_left(self, step: int) -> float:
        """Estimated seconds of training until the end."""
        return self.budget.seconds_left(step, self.seconds - self.validating, self.reserve)

    def look(self, task: SegmentationTask) -> None:
        """Read the time, and whether the run is to stop; the other devices take what the first one finds."""
        self.seconds, stopped = agree([self.now() - self._zero, self.stop()], task.device)
        self._looked_at, self.stopped = self.seconds, bool(stopped)
        self._steps = 0

    def validated(self, task: SegmentationTask, seconds: float) -> None:
        """Be told of a validation and its length."""
        self.estimate = agree([seconds], task.device)[0]
        self.validating += self.estimate
        if self._first_step:
            self._started_with += self.estimate
        self.look(task)

    def on_train_start(self, trainer: pl.Trainer, task: SegmentationTask) -> None:
        self._started_with = self.seconds
        self._zero = self.now() - self.seconds
        self._first_step = True
        task.progress = self.reached = self.progress(trainer.global_step)
        trainer.should_stop = task.progress >= 1

    def on_train_epoch_start(self, trainer: pl.Trainer, task: SegmentationTask) -> None:
        self.look(task)
        self._blind_steps = 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: SegmentationTask, outputs: Any, batch: Any, index: int
    ) -> None:
        if self._first_step:
            # The first step compiles kernels and starts workers: preparation, like the filling of the cache.
            self._first_step = False
            self._zero = self.now() - self._started_with
            self.look(task)
        elif self._steps < self._blind_steps:
            # To agree takes a word of the first device, for which a GPU has to finish all that it was given.
            self._steps += 1
            self.seconds = self._looked_at + self._steps * self._pace
        else:
            before, steps = self._looked_at, self._steps + 1
            self.look(task)
            self._pace = (self.seconds - before) / steps
            if trainer.world_size > 1:
                self._blind_steps = min(int(LOOK_EVERY / max(self._pace, 1e-3)), trainer.num_training_batches)
        task.progress = self.reached = self.progress(trainer.global_step)
        if task.progress >= 1 or self.stopped:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        known = {"seconds": self.seconds, "validating": self.validating, "estimate": self.estimate}
        return known | {"reached": self.reached, "budget": asdict(self.budget)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seconds, self.validating = state["seconds"], state.get("validating", 0.0)
        self.estimate = state.get("estimate", state.get("reserve"))
        if state.get("budget") == asdict(self.budget):
            self.reached = state["reached"]

"""What happens around the steps: the clock, validation with the shipped predictor, the records."""

import csv
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from dlka_med.errors import InputError
from dlka_med.evaluation.figures import plot_curve
from dlka_med.files import whole_file
from dlka_med.progress import progress
from dlka_med.run_folder import RunFolder
from dlka_med.training.log_file import LogFile
from dlka_med.training.schedule import Budget
from dlka_med.training.task import SegmentationTask

log = logging.getLogger("dlka_med")


class Clock(pl.Callback):
    """Measures the training time, tells the task its progress and ends the run; all devices agree on it.

    `reserve` is the length of the latest validation in seconds: the last one, too, has to fit into the minutes.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.reserve = 0.0
        self.seconds = 0.0
        self._zero = self._started_with = 0.0
        self._first_step = True

    def on_train_start(self, trainer: pl.Trainer, task: SegmentationTask) -> None:
        self._started_with = self.seconds
        self._zero = time.monotonic() - self.seconds
        self._first_step = True
        task.progress = self.budget.progress(trainer.global_step, self.seconds, self.reserve)

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: SegmentationTask, outputs: Any, batch: Any, index: int
    ) -> None:
        if self._first_step:
            # The first step compiles kernels and starts workers: preparation, like the filling of the cache.
            self._first_step = False
            self._zero = time.monotonic() - self._started_with
        self.seconds = trainer.strategy.broadcast(time.monotonic() - self._zero)
        task.progress = self.budget.progress(trainer.global_step, self.seconds, self.reserve)
        if task.progress >= 1:
            trainer.should_stop = True

    def seconds_now(self) -> float:
        """Seconds of training so far, validation included, over all resumed parts."""
        self.seconds = time.monotonic() - self._zero
        return self.seconds

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds_now(), "reserve": self.reserve}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seconds, self.reserve = state["seconds"], state["reserve"]


class Validation(pl.Callback):
    """Scores held-out cases on their own grids and keeps the best weights.

    Args:
        score: (network, case id) -> Dice per foreground label, None where both are empty.
        cases: ids to validate; they are dealt out over the devices.
        labels: names of the foreground labels, in the order of the scores.
        every: epochs between validations; the last epoch always validates.
        run: gets the best weights.
        clock: is told how long a validation takes.
    """

    def __init__(
        self,
        score: Callable[[torch.nn.Module, str], Sequence[float | None]],
        cases: Sequence[str],
        labels: Sequence[str],
        every: int,
        run: RunFolder,
        clock: Clock,
    ) -> None:
        self.score, self.cases, self.labels, self.every = score, cases, labels, every
        self.run, self.clock = run, clock
        self.best = -1.0

    def on_train_epoch_end(self, trainer: pl.Trainer, task: SegmentationTask) -> None:
        last = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        if not last and (trainer.current_epoch + 1) % self.every:
            return
        started = time.monotonic()
        mine = self.cases[trainer.global_rank :: trainer.world_size]
        with trainer.precision_plugin.forward_context():
            scores = [list(self.score(task.shipped_network, case)) for case in mine]
        means = _mean_per_label(_gather(scores), self.labels)
        present = [value for value in means.values() if value is not None]
        mean = sum(present) / len(present) if present else 0.0
        task.row["dice"] = mean
        task.row |= {f"dice {name}": value for name, value in means.items() if value is not None}
        self.clock.reserve = trainer.strategy.broadcast(time.monotonic() - started)
        task.row["validation_seconds"] = self.clock.reserve
        if mean > self.best:
            self.best = mean
            if trainer.is_global_zero:
                self.run.save_weights(
                    task.shipped_network.state_dict(),
                    {"epoch": str(trainer.current_epoch + 1), "validation_dice": f"{mean:.6f}"},
                )
        task.row["best_dice"] = self.best

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state["best"]


class Recorder(pl.Callback):
    """After each epoch: a console line, `metrics.csv`, `curve.png` and the resumable checkpoint."""

    def __init__(self, clock: Clock, run: RunFolder) -> None:
        self.clock, self.run = clock, run
        self.rows: list[dict[str, float]] = []
        self.handler: logging.Handler | None = None

    def setup(self, trainer: pl.Trainer, task: SegmentationTask, stage: str) -> None:
        if trainer.is_global_zero:
            self.handler = LogFile(self.run.log_file)
            log.addHandler(self.handler)
            log.setLevel(logging.INFO)

    def teardown(self, trainer: pl.Trainer, task: SegmentationTask, stage: str) -> None:
        if self.handler is not None:
            log.removeHandler(self.handler)
            self.handler.close()
            self.handler = None

    def on_exception(self, trainer: pl.Trainer, task: SegmentationTask, exception: BaseException) -> None:
        self.teardown(trainer, task, "fit")

    def on_train_epoch_start(self, trainer: pl.Trainer, task: SegmentationTask) -> None:
        self.show = progress(f"epoch {trainer.current_epoch + 1}", "step", line_every=60, closing_line=False)

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: SegmentationTask, outputs: Any, batch: Any, index: int
    ) -> None:
        if trainer.is_global_zero:
            self.show(trainer.num_training_batches if trainer.should_stop else index + 1, trainer.num_training_batches)

    def on_train_epoch_end(self, trainer: pl.Trainer, task: SegmentationTask) -> None:
        loss = task.mean_loss()
        if not math.isfinite(loss):
            raise InputError(
                f"the training loss became {loss} in epoch {trainer.current_epoch + 1}: lower "
                "training.optimizer.learning_rate, set a gradient_clip, or use precision fp32; "
                f"the last good state is {self.run.checkpoint_file}"
            )
        seconds = self.clock.seconds_now()
        epoch = trainer.current_epoch + 1
        row = {"epoch": epoch, "step": trainer.global_step, "minutes": seconds / 60, "loss": loss, **task.row}
        self.rows.append(row)
        trainer.save_checkpoint(self.run.checkpoint_file)
        if trainer.is_global_zero:
            _write_csv(self.rows, self.run.metrics_file)
            if "dice" in row:
                plot_curve(self.rows, self.run.curve_file)
            left = 0.0 if trainer.should_stop else self.clock.budget.seconds_left(trainer.global_step, seconds)
            log.info(_line(row, self.clock.budget.epochs, left))

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = state["rows"]


def _gather(scores: list[list[float | None]]) -> list[list[float | None]]:
    if not torch.distributed.is_initialized():
        return scores
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, scores)
    return [score for part in parts for score in part]


def _mean_per_label(scores: list[list[float | None]], labels: Sequence[str]) -> dict[str, float | None]:
    means: dict[str, float | None] = {}
    for index, name in enumerate(labels):
        values = [score[index] for score in scores if score[index] is not None]
        means[name] = sum(values) / len(values) if values else None
    return means


def _write_csv(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _line(row: Mapping[str, float], epochs: int | None, seconds_left: float) -> str:
    parts = [f"epoch {row['epoch']}" + (f"/{epochs}" if epochs else ""), f"loss {row['loss']:.4f}"]
    if "dice" in row:
        labels = ", ".join(f"{k.removeprefix('dice ')} {v:.3f}" for k, v in row.items() if k.startswith("dice "))
        parts.append(f"Dice {row['dice']:.4f} ({labels}), best {row['best_dice']:.4f}")
    parts.append(f"learning rate {row['learning_rate']:.2e}")
    parts.append(f"{row['minutes']:.1f} min, {seconds_left / 60:.1f} min left")
    return "  ".join(parts)

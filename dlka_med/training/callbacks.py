"""What happens after each epoch: the checkpoint and the records."""

import csv
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from dlka_med.errors import InputError
from dlka_med.evaluation.figures import plot_curve
from dlka_med.files import whole_file
from dlka_med.progress import progress
from dlka_med.run_folder import RunFolder
from dlka_med.training.clock import Clock
from dlka_med.training.task import SegmentationTask
from dlka_med.training.validation import Validation

log = logging.getLogger("dlka_med")


class Safekeeping(pl.Callback):
    """Writes the checkpoint of an epoch before anything that may fail is done with it."""

    def __init__(self, clock: Clock, validation: Validation, run: RunFolder) -> None:
        self.clock, self.validation, self.run = clock, validation, run

    def on_train_epoch_end(self, trainer: pl.Trainer, task: SegmentationTask) -> None:
        epoch, loss = trainer.current_epoch + 1, task.mean_loss()
        if not math.isfinite(loss):
            file = self.run.checkpoint_file
            kept = f"the last good state is {file}" if file.exists() else "there is no earlier state to go back to"
            raise InputError(
                f"the training loss became {loss} in epoch {epoch}: lower "
                f"training.optimizer.learning_rate, set a gradient_clip, or use precision fp32; {kept}"
            )
        self.clock.look(task)
        known = {"epoch": epoch, "step": trainer.global_step, "minutes": self.clock.seconds / 60, "loss": loss}
        task.row = known | task.row
        trainer.should_stop = trainer.should_stop or self.clock.stopped
        self.validation.due = self.validation.is_due(epoch, last=trainer.should_stop)
        trainer.save_checkpoint(self.run.checkpoint_file)


class Recorder(pl.Callback):
    """After each epoch: a console line, `metrics.csv`, `curve.png` and, with the score, the checkpoint again."""

    def __init__(self, clock: Clock, run: RunFolder) -> None:
        self.clock, self.run = clock, run
        self.rows: list[dict[str, float]] = []

    def on_train_start(self, trainer: pl.Trainer, task: SegmentationTask) -> None:
        """Make up for an epoch that was interrupted between its checkpoint and its records."""
        if task.row and (not self.rows or self.rows[-1]["epoch"] < task.row["epoch"]):
            self.record(trainer, task)

    def on_train_epoch_start(self, trainer: pl.Trainer, task: SegmentationTask) -> None:
        self.show = progress(f"epoch {trainer.current_epoch + 1}", "step", line_every=60, closing_line=False)

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: SegmentationTask, outputs: Any, batch: Any, index: int
    ) -> None:
        if trainer.is_global_zero:
            self.show(trainer.num_training_batches if trainer.should_stop else index + 1, trainer.num_training_batches)

    def on_train_epoch_end(self, trainer: pl.Trainer, task: SegmentationTask) -> None:
        self.record(trainer, task)

    def record(self, trainer: pl.Trainer, task: SegmentationTask) -> None:
        """Write down what is known of the task's latest epoch."""
        task.row["minutes"] = self.clock.seconds / 60
        row = dict(task.row)
        self.rows.append(row)
        if "validation_seconds" in row:
            trainer.save_checkpoint(self.run.checkpoint_file)
        if trainer.is_global_zero:
            _write_csv(self.rows, self.run.metrics_file)
            if "validation_seconds" in row:
                plot_curve(self.rows, self.run.curve_file)
            left = 0.0 if trainer.should_stop else self.clock.seconds_left(trainer.global_step)
            log.info(_line(row, self.clock.budget.epochs, left))

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = state["rows"]


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
        cases = f" over {row['validated_cases']} cases" if "validated_cases" in row else ""
        parts.append(f"Dice {row['dice']:.4f}{cases} ({labels}), best {row['best_dice']:.4f}")
    parts.append(f"learning rate {row['learning_rate']:.2e}")
    parts.append(f"{row['minutes']:.1f} min, {seconds_left / 60:.1f} min left")
    return "  ".join(parts)

"""Validation with the shipped predictor, and the choice of the weights that a run keeps."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import pytorch_lightning as pl
from torch import nn

from dlka_med.run_folder import RunFolder
from dlka_med.training.clock import Clock
from dlka_med.training.devices import merge, share_buffers
from dlka_med.training.task import SegmentationTask

Scores = Sequence[float | None]

log = logging.getLogger("dlka_med")


class Validation(pl.Callback):
    """Scores held-out cases on their own grids and keeps the best weights, of equal ones the later.

    Without cases, or where none of them holds a label that could be measured, it keeps the latest.

    A limit of minutes bounds what validation may take of them: the first one ends when it has had its time, the
    cases that it got through are the set from then on, and a later one is left out where time is short.

    Args:
        score: (network, case id) -> Dice per foreground label, None where both are empty.
        cases: ids to validate, the most telling first; they are dealt out over the devices.
        is_labelled: whether a case holds any label; asked when training starts.
        labels: names of the foreground labels, in the order of the scores.
        every: epochs between validations; the last epoch always validates.
        run: gets the best weights.
        clock: limits the time, and is told how much was taken.

    Attributes:
        due: whether the latest epoch still has to be validated.
        best: score of the weights in the run folder on `scored`, the cases that count; -1 before the first.
        found: Dice per label of each case in the latest validation of this process.
    """

    def __init__(
        self,
        score: Callable[[nn.Module, str], Scores],
        cases: Sequence[str],
        is_labelled: Callable[[str], bool],
        labels: Sequence[str],
        every: int,
        run: RunFolder,
        clock: Clock,
    ) -> None:
        self.score, self.cases, self.labels, self.every = score, list(cases), labels, every
        self.is_labelled = is_labelled
        self.run, self.clock = run, clock
        self.due = False
        self.best = -1.0
        self.scored: list[str] = []
        self.found: dict[str, Scores] = {}
        self._scored_of: dict[str, Any] = {}
        if not self.cases:
            clock.estimate = 0.0

    def is_due(self, epoch: int, last: bool) -> bool:
        """Whether this epoch is to be validated."""
        clock = self.clock
        affordable = clock.budget.affords_validation(clock.seconds, clock.validating, clock.estimate or 0.0)
        return last or (epoch % self.every == 0 and affordable)

    def on_train_start(self, trainer: pl.Trainer, task: SegmentationTask) -> None:
        """Make up for what an interruption has left undone, or a change of the cases has made invalid."""
        if self.cases and not any(map(self.is_labelled, self.cases)):
            if trainer.is_global_zero:
                log.warning(
                    "none of the %d validation cases holds a label: nothing can be measured, and the latest weights "
                    "are kept; choose another dataset.fold, or other folds",
                    len(self.cases),
                )
            self.cases, self.clock.estimate = [], 0.0
        if self.best >= 0 and self._scored_of != self._asked():
            self._score_best_again(trainer, task)
        if self.due:
            self.validate(trainer, task)

    def on_train_epoch_end(self, trainer: pl.Trainer, task: SegmentationTask) -> None:
        if self.due:
            self.validate(trainer, task)

    def validate(self, trainer: pl.Trainer, task: SegmentationTask) -> None:
        """Score the shipped network, keep it if it is the best, and write the figures into the task's row."""
        started = self.clock.now()
        share_buffers(task.shipped_network)
        known, better = {"epoch": int(task.row["epoch"])}, True
        if self.cases:
            self.found = self._measure(trainer, task.shipped_network)
            mean, means = _means(self.found, self.labels)
            task.row |= {"dice": mean, "validated_cases": len(self.found)}
            task.row |= {f"dice {name}": value for name, value in means.items() if value is not None}
            known["validation_dice"] = f"{mean:.6f}"
            self.best, better = max(self.best, mean), mean >= self.best
            task.row["best_dice"] = self.best
        if better and trainer.is_global_zero:
            self.run.save_weights(task.shipped_network.state_dict(), known)
        self.due = False
        self.clock.validated(task, self.clock.now() - started)
        task.row["validation_seconds"] = self.clock.estimate
        trainer.should_stop = trainer.should_stop or self.clock.stopped

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "due": self.due, "scored": self.scored, "scored_of": self._scored_of}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.due = state["best"], state.get("due", False)
        self.scored, self._scored_of = state.get("scored", []), state.get("scored_of", {})

    def _asked(self) -> dict[str, Any]:
        """What decides which cases count; the limit only where it left some out."""
        cut = 0 < len(self.scored) < len(self.cases)
        return {"cases": self.cases, "limit": self.clock.budget.longest_validation if cut else math.inf}

    def _measure(self, trainer: pl.Trainer, network: nn.Module) -> dict[str, Scores]:
        """Dice per label of each case of `scored`, which is chosen here if it is empty."""
        limit = math.inf if self.scored else self.clock.budget.longest_validation
        found: dict[str, Scores] = {}
        shortest, started = math.inf, self.clock.now()
        with trainer.precision_plugin.forward_context():
            for case in (self.scored or self.cases)[trainer.global_rank :: trainer.world_size]:
                before = self.clock.now()
                if found and before - started + shortest > limit:
                    break
                found[case] = list(self.score(network, case))
                shortest = min(shortest, self.clock.now() - before)
        found = merge(found)
        if not self.scored:
            self.scored = [case for case in self.cases if case in found]
            self._scored_of = self._asked()
            if trainer.is_global_zero and len(self.scored) < len(self.cases):
                log.info(
                    "training.minutes leave %.1f s for a validation: %d of %d cases validate from now on",
                    limit,
                    len(self.scored),
                    len(self.cases),
                )
        return {case: found[case] for case in self.scored}

    def _score_best_again(self, trainer: pl.Trainer, task: SegmentationTask) -> None:
        """The score of the best weights was measured on other cases; later ones must be compared on the same."""
        started = self.clock.now()
        self.best, self.scored = -1.0, []
        if not self.run.weights_file.is_file():
            return
        network = deepcopy(task.shipped_network)
        network.load_state_dict(self.run.load_weights())
        self.best, _ = _means(self._measure(trainer, network), self.labels)
        known = self.run.weights_metadata | {"validation_dice": f"{self.best:.6f}"}
        if trainer.is_global_zero:
            log.info("other cases validate than before: the best weights so far have Dice %.4f on them", self.best)
            self.run.save_weights(network.state_dict(), known)
        self.clock.validated(task, self.clock.now() - started)


def _means(found: Mapping[str, Scores], labels: Sequence[str]) -> tuple[float, dict[str, float | None]]:
    """Mean Dice over the labels, and that of each label over the cases."""
    means: dict[str, float | None] = {}
    for index, name in enumerate(labels):
        values = [score[index] for score in found.values() if score[index] is not None]
        means[name] = sum(values) / len(values) if values else None
    present = [value for value in means.values() if value is not None]
    return (sum(present) / len(present) if present else 0.0), means

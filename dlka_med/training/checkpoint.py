"""Checkpoints of training: written whole, read without unpickling code."""

import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import CheckpointIO

from dlka_med.errors import InputError
from dlka_med.files import whole_file
from dlka_med.run_folder import RunFolder, check_fit
from dlka_med.training.clock import Clock
from dlka_med.training.schedule import Budget

log = logging.getLogger("dlka_med")


class SafeCheckpointIO(CheckpointIO):
    """Lightning's checkpoints as whole files that hold tensors and plain data only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        with whole_file(path) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = True) -> dict:
        try:
            return torch.load(path, map_location=map_location or "cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise InputError(
                f"cannot resume from {path}: it is damaged or not a checkpoint of this toolkit ({error}); "
                "train anew into another folder"
            ) from error

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def latest_checkpoint(run: RunFolder) -> Path | None:
    """The checkpoint that a run resumes from; None if it never finished an epoch.

    Raises:
        InputError: the file is missing although epochs were finished, or the weights were imported.
    """
    if run.checkpoint_file.is_file():
        return run.checkpoint_file
    if run.metrics_file.is_file():
        raise InputError(
            f"cannot resume {run.path}: {run.checkpoint_file} is missing; copy it back, or train into another folder"
        )
    if run.weights_file.is_file():
        raise InputError(
            f"{run.path} has weights, but no training to go on with (no {run.checkpoint_file.name}), as of imported "
            "weights: set training.start_from to it, and train into another folder"
        )
    log.warning("%s holds no finished epoch: the training starts from its beginning", run.path)
    return None


def is_finished(file: Path, task: pl.LightningModule, budget: Budget) -> bool:
    """Whether the run of this checkpoint has used up its epochs or minutes, and its last epoch is validated.

    Raises:
        InputError: the file is damaged, of an earlier version, or holds another network than that of `task`, or one
            of which other parameters learn.
    """
    state = SafeCheckpointIO().load_checkpoint(file)
    check_fit(file, task.state_dict(), state.get("state_dict", {}))
    if not _moves_the_same(state["optimizer_states"][0], task.configure_optimizers()):
        raise InputError(
            f"cannot resume from {file}: its optimiser moves other parameters, or at other rates, as where "
            "training.freeze or optimizer.rates of the run were edited since, or an earlier version wrote it; put "
            "them back, or train into another folder with training.start_from set to this run"
        )
    return _is_over(state, budget)


def has_finished(run: RunFolder, budget: Budget) -> bool:
    """Whether the run has come to the end of `budget`, by its files alone.

    Raises:
        InputError: its checkpoint is damaged.
    """
    if not (run.checkpoint_file.is_file() and run.weights_file.is_file()):
        return False
    return _is_over(SafeCheckpointIO().load_checkpoint(run.checkpoint_file), budget)


def progress_of(file: Path, budget: Budget) -> float:
    """Share of `budget` that the run of this checkpoint has used up.

    Raises:
        InputError: the file is damaged.
    """
    return _progress(SafeCheckpointIO().load_checkpoint(file), budget)


def _moves_the_same(saved: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> bool:
    """Whether rates, and shapes of parameters as far as the saved state knows them, are those of `optimizer`."""
    before, now = saved["param_groups"], optimizer.param_groups
    if [(group.get("rate"), len(group["params"])) for group in before] != [
        (group["rate"], len(group["params"])) for group in now
    ]:
        return False
    numbers = [number for group in before for number in group["params"]]
    parameters = [parameter for group in now for parameter in group["params"]]
    return all(
        value.shape == parameter.shape
        for number, parameter in zip(numbers, parameters, strict=True)
        for value in saved["state"].get(number, {}).values()
        if isinstance(value, torch.Tensor) and value.ndim
    )


def _is_over(state: Mapping[str, Any], budget: Budget) -> bool:
    return _progress(state, budget) >= 1 and not state["callbacks"]["Validation"].get("due", False)


def _progress(state: Mapping[str, Any], budget: Budget) -> float:
    clock = Clock(budget)
    clock.load_state_dict(state["callbacks"]["Clock"])
    return clock.progress(state["global_step"])

"""Which cases a trained run, or every fold of a cross-validation, has not seen; nothing slow is imported for it."""

import os
from dataclasses import dataclass
from pathlib import Path

from dlka_med.data.cases import Case, Dataset, dataset_of
from dlka_med.errors import InputError
from dlka_med.inference.members import runs_of
from dlka_med.run_folder import RunFolder


@dataclass(frozen=True)
class HeldOut:
    """A run and the cases that validated it, labels and groups included."""

    run: RunFolder
    cases: tuple[Case, ...]


def held_out(path: str | Path) -> list[HeldOut]:
    """The run with its validation cases; of a folder of folds, every fold with its own.

    Raises:
        InputError: there is no such run, it has no weights yet, a fold is missing, nothing validates, or the dataset
            is not where the run's config says, or lacks a case or a label.
    """
    return [_of_run(run) for run in runs_of(path)]


def _of_run(run: RunFolder) -> HeldOut:
    run.refuse_untrained()
    validating = run.split["validation"]
    if not validating:
        why = ", since it was trained on all cases (dataset.fold: all)" if run.config.dataset.fold == "all" else ""
        raise InputError(
            f"{run.split_file} has no validation case{why}: a temperature needs cases that did not train; train with a "
            "fold that validates, or dlka train --folds all, and calibrate that"
        )
    cases = {case.id: case for case in _dataset(run).cases}
    if missing := [case for case in validating if case not in cases]:
        raise InputError(
            f"{run.config.dataset.root} lacks {len(missing)} of the {len(validating)} validation cases of "
            f"{run.split_file}, such as {missing[0]}: set dataset.root in {run.config_file} to the dataset of the run"
        )
    return HeldOut(run, tuple(cases[case] for case in validating))


def _dataset(run: RunFolder) -> Dataset:
    root = run.config.dataset.root
    if not os.path.isdir(root):
        raise InputError(
            f"{run.config_file}: dataset.root is {root}, which is no folder: set it to where the dataset lies today"
        )
    return dataset_of(run.config.dataset)

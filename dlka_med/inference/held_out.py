"""Which cases a trained run, or every fold of a cross-validation, has not seen; nothing slow is imported for it."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlka_med.data.cases import Case, Dataset, dataset_of
from dlka_med.errors import InputError
from dlka_med.files import whole_file
from dlka_med.folds_folder import FoldsFolder
from dlka_med.inference.members import runs_of
from dlka_med.run_folder import RunFolder


@dataclass(frozen=True)
class HeldOut:
    """A run and the cases that validated it, labels and groups included."""

    run: RunFolder
    cases: tuple[Case, ...]


def held_out(path: str | Path, what: str) -> list[HeldOut]:
    """The run with its validation cases; of a folder of folds, every fold with its own.

    Args:
        what: is learned on them, as a message says it, such as "a temperature".

    Raises:
        InputError: there is no such run, it has no weights yet, a fold is missing, nothing validates, or the dataset
            is not where the run's config says, or lacks a case or a label.
    """
    return [_of_run(run, what) for run in runs_of(path)]


def patient_of(case: Case) -> tuple[bool, str]:
    """Who a case is of: its group, or nobody else than itself."""
    return (False, case.id) if case.group is None else (True, case.group)


def learners(path: str | Path, runs: Sequence[HeldOut]) -> list[RunFolder | FoldsFolder]:
    """The folders that keep what is learned: the run, or every run of the folds and the folder of folds."""
    folds = FoldsFolder(Path(path))
    return [*(one.run for one in runs), *([folds] if folds.folds_file.is_file() else [])]


def write_into_all(files: Iterable[Path], content: Mapping[str, Any]) -> None:
    """Write one JSON content into several files, each whole or not at all."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    for path in files:
        with whole_file(path) as file:
            file.write_text(text, encoding="utf-8")


def _of_run(run: RunFolder, what: str) -> HeldOut:
    run.refuse_untrained()
    validating = run.split["validation"]
    if not validating:
        why = ", since it was trained on all cases (dataset.fold: all)" if run.config.dataset.fold == "all" else ""
        raise InputError(
            f"{run.split_file} has no validation case{why}: {what} needs cases that did not train; train with a fold "
            "that validates, or dlka train --folds all, and give that"
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

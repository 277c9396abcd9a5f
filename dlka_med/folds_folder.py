"""The layout of a cross-validation: a folder of runs."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from dlka_med.errors import InputError
from dlka_med.files import refuse_existing
from dlka_med.paths import could_hold_files
from dlka_med.run_folder import RunFolder, is_run


@dataclass(frozen=True)
class FoldsFolder:
    """A folder made by training several folds of one config.

    folds.json            ids of the cases that validate in each fold
    fold_0, fold_1, ...   a run each
    predictions           label maps of all cases, each by the fold that did not see it
    crossvalidation.json  how good they are
    calibration.json      the temperature of their probabilities, which each run holds too, and reliability.png
    postprocessing.json   what is done to their label maps, which each run holds too
    """

    path: Path

    @property
    def folds_file(self) -> Path:
        return self.path / "folds.json"

    @property
    def predictions(self) -> Path:
        return self.path / "predictions"

    @property
    def crossvalidation_file(self) -> Path:
        return self.path / "crossvalidation.json"

    @property
    def calibration_file(self) -> Path:
        return self.path / "calibration.json"

    @property
    def postprocessing_file(self) -> Path:
        return self.path / "postprocessing.json"

    def run(self, fold: int) -> RunFolder:
        """The run of one fold; it need not be there."""
        return RunFolder(self.path / f"fold_{fold}")

    def started(self, folds: int) -> dict[int, RunFolder]:
        """The runs, of so many folds, that have learned something."""
        return {fold: run for fold in range(folds) if (run := self.run(fold)).started}

    def refuse_other(self) -> None:
        """Raise `InputError` if the folder holds anything but folds, also such as were trained one by one."""
        could_hold_files(self.path)
        if is_run(self.path) or RunFolder(self.path).started:
            raise InputError(f"{self.path} holds a run already, no folds: name another folder")
        if self.folds_file.is_file() or not os.path.exists(self.path):
            return
        # Locks and what a killed process was writing are hidden.
        found = [child for child in self.path.iterdir() if not child.name.startswith(".")]
        if not all(re.fullmatch(r"fold_\d+", child.name) and is_run(child) for child in found):
            refuse_existing(self.path)

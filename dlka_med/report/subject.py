"""What a report is about: a run, the folds of a cross-validation, or a comparison; nothing slow is imported for it."""

import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dlka_med.comparing.folder import ComparisonFolder
from dlka_med.config.schema import RunConfig
from dlka_med.data.cases import Case, dataset_of
from dlka_med.errors import InputError
from dlka_med.folds_folder import FoldsFolder
from dlka_med.paths import did_you_mean, shown
from dlka_med.run_folder import RunFolder

Kind = Literal["run", "folds", "comparison"]


@dataclass(frozen=True)
class Part:
    """One training; `name` tells it from the others, and is empty where it is the only one."""

    name: str
    run: RunFolder
    network: str = ""


@dataclass(frozen=True)
class Subject:
    """A folder and the trainings in it, the first of which stands for all where they share a config."""

    path: Path
    kind: Kind
    parts: tuple[Part, ...]

    @property
    def config(self) -> RunConfig:
        return self.parts[0].run.config

    @property
    def told(self) -> tuple[Part, ...]:
        """The trainings whose cases are looked at: of a comparison those of the first network with its first seed."""
        if self.kind != "comparison":
            return self.parts
        first = self.parts[0].run.path.parent
        return tuple(part for part in self.parts if part.run.path.parent == first)

    @property
    def predictions(self) -> Path | None:
        """Label maps of cases that did not train, which the folder itself holds; None if it holds none yet."""
        if self.kind == "folds":
            folder = FoldsFolder(self.path)
            return folder.predictions if folder.crossvalidation_file.is_file() else None
        if self.kind == "comparison":
            first = self.parts[0]
            found = ComparisonFolder(self.path).predictions(first.network, int(first.run.path.parent.name[5:]))
            return found if os.path.isfile(ComparisonFolder(self.path).result_file) else None
        return None


def open_subject(path: str | Path) -> Subject:
    """Look at what a folder holds.

    Raises:
        InputError: it is neither a run nor a folder of folds nor a comparison, or nothing has begun in it.
    """
    path = Path(path)
    if os.path.isfile(ComparisonFolder(path).asked_file):
        return Subject(path, "comparison", tuple(_begun(path, _compared(path))))
    folds = sorted(path.glob("fold_*"), key=lambda fold: (len(fold.name), fold.name)) if os.path.isdir(path) else []
    if not (path / "config.yaml").is_file() and (FoldsFolder(path).folds_file.is_file() or folds):
        found = (Part(fold.name.replace("_", " "), RunFolder(fold)) for fold in folds)
        return Subject(path, "folds", tuple(_begun(path, found)))
    return Subject(path, "run", (Part("", RunFolder.open(path)),))


def case_of(subject: Subject, name: str) -> tuple[Case, Part]:
    """A case by its id, and a training with weights that did not see it; the first one if all or none did.

    Raises:
        InputError: nothing has weights yet, there is no such case, or the dataset cannot be read.
    """
    ready = [part for part in subject.told if part.run.weights_file.is_file()]
    if not ready:
        subject.told[0].run.refuse_untrained()
    found = {case.id: case for case in _cases(subject)}
    if name not in found:
        near = difflib.get_close_matches(name, found, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else f"; it has {len(found)}, such as {min(found)}"
        raise InputError(f"{subject.config.dataset.root} has no case {shown(repr(name))}{hint}")
    unseen = [part for part in ready if name in (*part.run.split["validation"], *part.run.split["test"])]
    return found[name], (*unseen, *ready)[0]


def _cases(subject: Subject) -> list[Case]:
    root = subject.config.dataset.root
    if not os.path.isdir(root):
        raise InputError(
            f"{subject.parts[0].run.config_file}: dataset.root is {root}, which is no folder: set it to where the "
            f"dataset lies today{did_you_mean(Path(root))}"
        )
    dataset = dataset_of(subject.config.dataset, grouped=False)
    return [*dataset.cases, *dataset.test]


def _compared(path: Path) -> Iterator[Part]:
    folder = ComparisonFolder(path)
    for network in folder.read().networks:
        for run in sorted((path / "runs" / network).glob("seed_*/fold_*")):
            if run.is_dir():
                seed, fold = (place.name.replace("_", " ") for place in (run.parent, run))
                yield Part(f"{network}, {seed}, {fold}", RunFolder(run), network)


def _begun(path: Path, parts: Iterator[Part]) -> Iterator[Part]:
    found = [part for part in parts if part.run.config_file.is_file() and part.run.split_file.is_file()]
    if not found:
        raise InputError(f"{path} holds no training that has begun: give a run folder, or report later")
    yield from (Part(part.name, RunFolder.open(part.run.path), part.network) for part in found)

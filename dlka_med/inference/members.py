"""Which trained runs predict together; nothing slow is imported for it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dlka_med.config.schema import RunConfig
from dlka_med.data.folds import read_folds
from dlka_med.errors import InputError
from dlka_med.folds_folder import FoldsFolder
from dlka_med.run_folder import RunFolder


def members_of(runs: str | Path | Sequence[str | Path]) -> tuple[RunFolder, ...]:
    """The runs that predict together: one, all folds of a cross-validation, or several of either.

    Raises:
        InputError: a run is missing or named twice, a fold has no weights yet, or a run differs from the first one in
            what they have to share: channels, labels, preprocessing (but for how greys are scaled), precision and
            windows.
    """
    named = [runs] if isinstance(runs, str | Path) else list(runs)
    if not named:
        raise InputError("no run is named: give a run folder, or a folder of folds")
    members = [run for path in named for run in runs_of(path)]
    seen: set[Path] = set()
    for run in members:
        if (place := run.path.resolve()) in seen:
            raise InputError(f"the run {run.path} is named twice: name every run of an ensemble once")
        seen.add(place)
    for run in members[1:]:
        _refuse_stranger(members[0], run)
    return tuple(members)


def runs_of(path: str | Path) -> list[RunFolder]:
    """The run of a run folder, or those of all folds of a folder of folds.

    Raises:
        InputError: there is no such run, or a fold has no weights yet.
    """
    folder = FoldsFolder(Path(path))
    if not folder.folds_file.is_file():
        return [RunFolder.open(path)]
    runs = [folder.run(fold) for fold in range(len(read_folds(folder.folds_file)))]
    if missing := [run.path.name for run in runs if not run.weights_file.is_file()]:
        raise InputError(
            f"{path}: {', '.join(missing)} of {len(runs)} folds has no weights yet: finish dlka train --folds all "
            "first, or name a single fold"
        )
    return [RunFolder.open(run.path) for run in runs]


def _refuse_stranger(first: RunFolder, other: RunFolder) -> None:
    ours, theirs = dict(_shared(first.config)), dict(_shared(other.config))
    for key, value in ours.items():
        if theirs[key] != value:
            raise InputError(
                f"{first.path} and {other.path} cannot predict together: {key} is {value} in the one and "
                f"{theirs[key]} in the other; name runs that were trained with the same"
            )


def _shared(config: RunConfig) -> Iterator[tuple[str, Any]]:
    """Keys and values that all members must have in common."""
    dataset, preprocessing = config.dataset, config.preprocessing
    yield "dataset.channels", list(dataset.channels or ())
    yield "dataset.labels", str(dataset.scheme)
    yield "dataset.regions_class_order", dataset.regions_class_order
    yield "dataset.slices", dataset.slices
    for key, value in preprocessing.model_dump(exclude={"intensity"}).items():
        yield f"preprocessing.{key}", value
    # Each member scales greys by its own numbers, but robust ones clip before.
    auto = preprocessing.intensity == "auto"
    kinds = ["auto"] * len(dataset.channels or ()) if auto else [entry.kind for entry in preprocessing.intensity]
    yield "preprocessing.intensity", [kind if kind.startswith("robust") else "not robust" for kind in kinds]
    yield "training.patch_size", list(config.training.patch_size)
    yield "training.precision", config.training.precision
    yield "inference.overlap", config.inference.overlap
    yield "inference.mirror_axes", list(config.inference.mirror_axes)

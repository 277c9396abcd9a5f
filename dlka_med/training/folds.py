"""Many folds of one config: trained one after the other, restarted at any point, joined to a cross-validation."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dlka_med.config.schema import RunConfig
from dlka_med.data.cases import Dataset, dataset_of
from dlka_med.data.folds import Folds, join_folds, read_folds, write_folds
from dlka_med.data.splits import find_folds, related_to_test
from dlka_med.errors import InputError
from dlka_med.folds_folder import FoldsFolder
from dlka_med.run_folder import RunFolder
from dlka_med.shards import ALONE, Shard, claimed, lock_of
from dlka_med.training.checkpoint import has_finished
from dlka_med.training.crossvalidation import cross_validate, refuse_trained
from dlka_med.training.interruption import EndedEarly
from dlka_med.training.resume import LENGTH, refuse_different, resumed_config
from dlka_med.training.schedule import Budget
from dlka_med.training.start import refuse_seen
from dlka_med.training.train import train

log = logging.getLogger("dlka_med")


def train_folds(
    config: RunConfig,
    out: str | Path,
    chosen: Sequence[int] | None = None,
    *,
    shard: Shard = ALONE,
    reasons: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any] | None:
    """Train folds of a config one after the other; when all are there, make the cross-validation.

    The folds are those of `dataset.folds`, kept in `out/folds.json` from the first call on: cases that the dataset
    gains later join them. The same call goes on where it was interrupted: finished folds stay, one that has begun is
    resumed, and so are finished ones if the config has more epochs or minutes now. Several processes may share the
    work, each with its own shard; who finishes the last fold makes the cross-validation.

    Args:
        config: its `dataset.fold` does not count.
        out: folder for `fold_0`, `fold_1`, ..., each a run of its own.
        chosen: numbers of folds; None: all.
        shard: (i, n): of the chosen folds only the i-th, counted from 0, and every n-th after it.
        reasons: as in `train`.

    Returns:
        The content of `crossvalidation.json`; None while folds are missing, if another process makes it, or if
        somebody ended a fold early.

    Raises:
        InputError: the config, the data or the folder cannot be used, or folds there were trained with another config
            or on other cases; before anything is trained.
        KeyboardInterrupt: after Ctrl-C; the same call goes on.
    """
    folder = FoldsFolder(Path(out).absolute())
    folder.refuse_other()
    dataset = dataset_of(config.dataset)
    if not folder.path.exists():
        _agreed(config, dataset, folder, chosen, shard)  # What is refused leaves no folder behind.
    with _whole_folder(folder):
        folds, mine = _agreed(config, dataset, folder, chosen, shard)
        if not folder.folds_file.is_file() or folds != read_folds(folder.folds_file):
            write_folds(folder.folds_file, folds)
    try:
        for fold in mine:
            with claimed(lock_of(folder.run(fold).path), wait=False) as free:
                if free:
                    _train(_of_fold(config, folder, fold), folder.run(fold), reasons)
                else:
                    log.info("fold %d: another process is training it", fold)
        return _joined(config, folder, folds)
    except (KeyboardInterrupt, SystemExit, EndedEarly) as end:
        log.warning("the same command goes on with the folds in %s: what is finished stays", out)
        if isinstance(end, EndedEarly):
            return None
        raise


def _agreed(
    config: RunConfig, dataset: Dataset, folder: FoldsFolder, chosen: Sequence[int] | None, shard: Shard
) -> tuple[Folds, list[int]]:
    """All folds, and those of this process, after a look at all that could refuse them."""
    kept = read_folds(folder.folds_file) if folder.folds_file.is_file() else None
    folds = _asked_folds(config, dataset) if kept is None else _joined_folds(kept, config, dataset, folder)
    mine = _chosen(chosen, len(folds))[shard[0] :: shard[1]]
    _check_started(config, folder, folds)
    _check_start(config, dataset, folder, folds, mine)
    return folds, mine


def _asked_folds(config: RunConfig, dataset: Dataset) -> Folds:
    asked = config.dataset
    return find_folds(dataset, asked.folds, test_cases=asked.test_cases, may_leak=asked.folds_may_leak)


def _joined_folds(kept: Folds, config: RunConfig, dataset: Dataset, folder: FoldsFolder) -> Folds:
    asked, file = config.dataset, folder.folds_file
    _refuse_other_folds(asked.folds, kept, file)
    tested = related_to_test(dataset, asked.test_cases)
    return join_folds(kept, dataset, tested, source=file, may_leak=asked.folds_may_leak)


def _chosen(asked: Sequence[int] | None, number: int) -> list[int]:
    chosen = sorted(set(range(number) if asked is None else asked))
    if strangers := [fold for fold in chosen if not 0 <= fold < number]:
        raise InputError(f"there is no fold {strangers[0]}: the {number} folds are numbered 0 to {number - 1}")
    return chosen


def _refuse_other_folds(asked: int | str, kept: Folds, file: Path) -> None:
    wanted = None if isinstance(asked, int) else read_folds(asked)
    number = asked if wanted is None else len(wanted)
    if number != len(kept):
        raise InputError(f"dataset.folds asks for {number} folds, but {file} holds {len(kept)}: name another folder")
    fold_of = {case: fold for fold, cases in enumerate(kept) for case in cases}
    for fold, cases in enumerate(wanted or ()):
        for case in cases:
            if fold_of.get(case, fold) != fold:
                raise InputError(
                    f"dataset.folds: the case {case} is in fold {fold} of {asked}, but in fold {fold_of[case]} of "
                    f"{file}: name another folder"
                )


def _of_fold(config: RunConfig, folder: FoldsFolder, fold: int) -> RunConfig:
    """The config of one fold; of a run that is there, its own name of the file of folds, which may have moved."""
    run = folder.run(fold)
    folds = run.config.dataset.folds if run.started else str(folder.folds_file)
    dataset = config.dataset.model_copy(update={"folds": folds, "fold": fold})
    return config.model_copy(update={"dataset": dataset})


def _check_started(config: RunConfig, folder: FoldsFolder, folds: Folds) -> None:
    """Whether the runs that are there are folds of this config, and of these cases."""
    runs = folder.started(len(folds))
    for fold, run in runs.items():
        asked = _of_fold(config, folder, fold)
        resumed_config(asked, RunFolder.open(run.path), extend=True)
        for key in sorted(LENGTH):
            before, now = (getattr(each.training, key.split(".")[1]) for each in (run.config, asked))
            if before != now and has_finished(run, Budget.of(asked.training)):
                raise InputError(
                    f"{run.path} has trained for longer than is asked now: {key} is {before} there and {now} here; "
                    f"ask for {before} again, or name another folder"
                )
    if runs:
        refuse_different(runs, same_length=False)
    refuse_trained(folder, folds)


def _check_start(config: RunConfig, dataset: Dataset, folder: FoldsFolder, folds: Folds, mine: Sequence[int]) -> None:
    """Whether the last fold can start from `training.start_from` is seen before the first one trains."""
    new = [fold for fold in mine if not folder.run(fold).started]
    if config.training.start_from is None or not new:
        return
    unseen = related_to_test(dataset, config.dataset.test_cases).union(*(folds[fold] for fold in new))
    refuse_seen(RunFolder.open(config.training.start_from), [case for case in dataset.cases if case.id in unseen])


def _train(config: RunConfig, run: RunFolder, reasons: Mapping[str, str]) -> None:
    training, fold = config.training, config.dataset.fold
    if has_finished(run, Budget.of(training)):
        log.info("fold %s is finished", fold)
        return
    if training.devices * training.nodes > 1:
        raise InputError(
            f"folds are trained on one device each, but training.devices is {training.devices} and training.nodes "
            f"{training.nodes}: set both to 1 and give each device a --shard, or train fold {fold} by itself with "
            f"-s dataset.folds={config.dataset.folds} -s dataset.fold={fold} --out {run.path}"
        )
    log.info("fold %s %s, into %s", fold, "goes on" if run.started else "is trained", run.path)
    train(config, run.path, resume=run.started, extend=run.started, is_claimed=True, reasons=reasons)
    if not has_finished(run, Budget.of(training)):
        raise EndedEarly


def _joined(config: RunConfig, folder: FoldsFolder, folds: Folds) -> dict[str, Any] | None:
    """The cross-validation, if all folds are there and no other process makes it."""
    file = folder.crossvalidation_file
    before = _changed(file)
    with _whole_folder(folder):
        runs = {fold: folder.run(fold) for fold in range(len(folds))}
        lacking = [str(fold) for fold, run in runs.items() if not has_finished(run, Budget.of(config.training))]
        if lacking:
            log.info(
                "every case is predicted and evaluated when all folds are trained; missing: %s", ", ".join(lacking)
            )
            return None
        refuse_different(runs, same_length=True)
        if _changed(file) != before:
            log.info("another process has made %s", file)
            return None
        if held := [fold for fold in runs if _is_held(folder, fold)]:
            log.info("fold %d: another process is about to end it, and makes the cross-validation then", held[0])
            return None
        return cross_validate(folder, config, folds)


def _changed(file: Path) -> int | None:
    return file.stat().st_mtime_ns if file.is_file() else None


def _is_held(folder: FoldsFolder, fold: int) -> bool:
    with claimed(lock_of(folder.run(fold).path), wait=False) as free:
        return not free


def _whole_folder(folder: FoldsFolder) -> AbstractContextManager[bool]:
    return claimed(lock_of(folder.path / "all"), wait=True)

"""dlka train"""

import argparse
import sys
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from dlka_med.cli.parser import OVERRIDES, fold_numbers, number, shard
from dlka_med.errors import InputError
from dlka_med.paths import could_hold_files, existing

# Help is shown before pydantic is imported.
if TYPE_CHECKING:
    from dlka_med.config.schema import RunConfig

SUMMARY = "train the network that a YAML file describes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("config", type=Path, metavar="CONFIG", help="YAML file; with --resume and --extend the run folder")
    add("--out", "-o", type=Path, metavar="RUN", help="run folder to make (runs/<name of the config>)")
    add("-s", "--set", **OVERRIDES, help="replace one value of the config, such as training.minutes=20; repeatable")
    further = parser.add_mutually_exclusive_group()
    further.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    further.add_argument(
        "--extend",
        type=number(0.01),
        metavar="N",
        help="train the run CONFIG, finished or not, for N minutes more, or N epochs more if epochs end it",
    )
    add(
        "--folds",
        type=fold_numbers,
        metavar="all|0,2",
        help="train all folds, or these, one after the other into RUN/fold_0, RUN/fold_1, ...; the same command goes "
        "on after an interruption; when all folds are there, each case is predicted by the fold that did not see it",
    )
    add(
        "--shard",
        type=shard,
        metavar="I/N",
        help="of --folds, train only the I-th, counted from 0, and every N-th after it: for N commands at a time",
    )


def run(options: argparse.Namespace) -> None:
    from dlka_med.config.loading import load_config
    from dlka_med.folds_folder import FoldsFolder
    from dlka_med.run_folder import RunFolder, is_run

    out, many, extend = options.out, options.folds is not None, options.extend is not None
    resume = options.resume or extend
    expected = "the run folder to go on with" if resume and not many else "the YAML file of a config"
    path = existing(options.config, expected)
    if options.shard is not None and not many:
        raise InputError("--shard shares out folds: add --folds all")
    if extend and (many or not path.is_dir()):
        raise InputError("--extend goes on with one run: name its folder, and leave out --folds")
    if path.is_dir():
        if many or not resume:
            raise InputError(f"{path} is a folder: name a YAML file, or add --resume to go on with the run in it")
        if FoldsFolder(path).folds_file.is_file() and not is_run(path):
            raise InputError(
                f"{path} holds the runs of several folds: the command with --folds that made it goes on with all, or "
                f"name one of its runs, such as {path / 'fold_0'}"
            )
        out = out or path
    config = load_config(path, options.overrides)
    if extend:
        config = _extended(config, options.extend)
    out = out or Path("runs") / config.name
    if many:
        FoldsFolder(existing(out, "the folder of the folds") if resume else out).refuse_other()
    elif resume:
        RunFolder.open(out)
    else:
        RunFolder(could_hold_files(out)).refuse_started()
    look_at_data(config, started=resume and not many)
    if many:
        _train_folds(config, out, options)
        return

    from dlka_med.training.train import train

    train(config, out, resume=resume, extend=extend, reasons=_reasons(options))


def _extended(config: "RunConfig", more: float) -> "RunConfig":
    """The config of a longer training; of two limits the other one grows in proportion."""
    training, update = config.training, {}
    if training.minutes is not None:
        update["minutes"] = training.minutes + more
        if training.epochs is not None:
            update["epochs"] = ceil(training.epochs * update["minutes"] / training.minutes)
    elif more != int(more):
        raise InputError(f"--extend {more:g}: epochs end this run, so give a whole number of them")
    else:
        update["epochs"] = training.epochs + int(more)
    return config.model_copy(update={"training": training.model_copy(update=update)})


def look_at_data(config: "RunConfig", started: bool) -> None:
    """Whether what the config names is there; a run that has started needs neither its folds nor its start."""
    from dlka_med.run_folder import RunFolder

    existing(config.dataset.root, "the folder of the dataset as dataset.root")
    if config.dataset.groups is not None:
        existing(config.dataset.groups, "a CSV file of cases and groups as dataset.groups")
    if started:
        return
    if isinstance(config.dataset.folds, str):
        existing(config.dataset.folds, "a number of folds or a JSON file of them as dataset.folds")
    if config.training.start_from is not None:
        RunFolder.open(config.training.start_from)


def _reasons(options: argparse.Namespace) -> dict[str, str]:
    """What the YAML file says of its values, but for those that the command line replaces."""
    from dlka_med.config.comments import comments_of

    if options.config.is_dir():
        return {}
    return comments_of(options.config, [entry.partition("=")[0].strip() for entry in options.overrides])


def _train_folds(config: "RunConfig", out: Path, options: argparse.Namespace) -> None:
    from dlka_med.shards import ALONE, leave_launcher

    mine = options.shard
    if mine is None:
        # Several devices that train one network together are the launcher's business.
        mine = leave_launcher() if config.training.devices * config.training.nodes == 1 else ALONE

    from dlka_med.training.crossvalidation import format_crossvalidation
    from dlka_med.training.folds import train_folds

    result = train_folds(config, out, options.folds or None, shard=mine, reasons=_reasons(options))
    if result is not None:
        sys.stdout.write(format_crossvalidation(result))

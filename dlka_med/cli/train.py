"""dlka train"""

import argparse
from pathlib import Path

from dlka_med.cli.parser import OVERRIDES
from dlka_med.errors import InputError
from dlka_med.paths import could_hold_files, existing

SUMMARY = "train the network that a YAML file describes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("config", type=Path, metavar="CONFIG", help="YAML file; with --resume also the run folder")
    add("--out", "-o", type=Path, metavar="RUN", help="run folder to make (runs/<name of the config>)")
    add("-s", "--set", **OVERRIDES, help="replace one value of the config, such as training.minutes=20; repeatable")
    add("--resume", action="store_true", help="go on with an interrupted run")


def run(options: argparse.Namespace) -> None:
    from dlka_med.config.loading import load_config
    from dlka_med.run_folder import RunFolder

    path, out = existing(options.config, "the YAML file of a config"), options.out
    if path.is_dir():
        if not options.resume:
            raise InputError(f"{path} is a folder: name a YAML file, or add --resume to go on with the run in it")
        out = out or path
    config = load_config(path, options.overrides)
    out = out or Path("runs") / config.name
    if options.resume:
        RunFolder.open(out)
    else:
        RunFolder(could_hold_files(out)).refuse_started()
    existing(config.dataset.root, "the folder of the dataset as dataset.root")
    if config.dataset.groups is not None:
        existing(config.dataset.groups, "a CSV file of cases and groups as dataset.groups")
    if config.training.start_from is not None and not options.resume:
        RunFolder.open(config.training.start_from)

    from dlka_med.training.train import train

    train(config, out, resume=options.resume)

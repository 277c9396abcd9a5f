"""dlka import-weights"""

import argparse
import sys
from pathlib import Path

from dlka_med.cli.parser import OVERRIDES
from dlka_med.files import refuse_existing
from dlka_med.paths import could_hold_files, existing

SUMMARY = "make a run folder of a checkpoint of the original D-LKA code"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="the authors' file (.model in 3D, .pth in 2D)")
    add(
        "--config", type=Path, required=True, metavar="CONFIG", help="YAML file that describes the checkpoint's network"
    )
    add("--out", "-o", type=Path, required=True, metavar="RUN", help="run folder to make")
    add("-s", "--set", **OVERRIDES, help="replace one value of the config, such as dataset.root=FOLDER; repeatable")
    add("--partial", action="store_true", help="keep what fits of a checkpoint of other classes, channels or sizes")


def run(options: argparse.Namespace) -> None:
    from dlka_med.config.loading import load_config

    existing(options.file, "the authors' file of weights")
    config = load_config(existing(options.config, "the YAML file of a config"), options.overrides)
    refuse_existing(could_hold_files(options.out))

    from dlka_med.import_weights import import_weights

    _, report = import_weights(options.file, config, options.out, partial=options.partial)
    sys.stdout.write(report.summary + "\n")

"""dlka demo"""

import argparse
import sys
from pathlib import Path

from dlka_med.cli.parser import whole_number
from dlka_med.files import refuse_existing
from dlka_med.paths import could_hold_files

SUMMARY = "make a small brain MRI dataset, then train, predict and evaluate (4 minutes)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", "-o", type=Path, required=True, metavar="DIR", help="new folder for all of it")
    add(
        "--dims",
        type=int,
        choices=(2, 3),
        default=3,
        help="blocks and dlka_net_3d, or slices and dlka_unet (3)",
    )
    add("--seed", type=whole_number(0), default=0, metavar="N", help="seed of the dataset and of the training")


def run(options: argparse.Namespace) -> None:
    refuse_existing(could_hold_files(options.out))

    from dlka_med.demo import run_demo

    sys.stdout.write(run_demo(options.out, seed=options.seed, dims=options.dims).describe())

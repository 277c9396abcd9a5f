"""dlka calibrate"""

import argparse
import sys
from pathlib import Path

from dlka_med.cli.parser import device, number
from dlka_med.paths import could_hold_files

SUMMARY = "fit the temperature of a run's probabilities on the cases that validated it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="run folder made by dlka train, or folder of all its folds")
    told = "what predicting the cases may hold at its peak, Python included, and of a GPU as much (what is free)"
    add("--memory", type=number(0), metavar="GIB", help=told)
    add("--device", type=device, metavar="DEVICE", help="cpu or cuda (cuda where there is one)")


def run(options: argparse.Namespace) -> None:
    from dlka_med.inference.held_out import held_out

    held_out(options.run, "a temperature")
    could_hold_files(options.run)

    from dlka_med.calibrating.calibrate import calibrate
    from dlka_med.calibrating.result import format_calibration

    calibrated = calibrate(options.run, device=options.device, memory=options.memory)
    sys.stdout.write(format_calibration(calibrated))

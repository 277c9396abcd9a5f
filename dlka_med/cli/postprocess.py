"""dlka postprocess"""

import argparse
import sys
from pathlib import Path

from dlka_med.cli.parser import device, number, whole_number
from dlka_med.paths import could_hold_files

SUMMARY = "learn which post-processing helps a run's label maps, on the cases that validated it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="run folder made by dlka train, or folder of all its folds")
    add("--cases", type=whole_number(1), metavar="N", help="held-out cases of each run, at most (all)")
    told = "what predicting the cases may hold at its peak, Python included, and of a GPU as much (what is free)"
    add("--memory", type=number(0), metavar="GIB", help=told)
    add("--device", type=device, metavar="DEVICE", help="cpu or cuda (cuda where there is one)")


def run(options: argparse.Namespace) -> None:
    from dlka_med.inference.held_out import held_out

    held_out(options.run, "post-processing")
    could_hold_files(options.run)

    from dlka_med.postprocessing.learn import learn_postprocessing
    from dlka_med.postprocessing.result import format_postprocessing

    learned = learn_postprocessing(options.run, device=options.device, cases=options.cases, memory=options.memory)
    sys.stdout.write(format_postprocessing(learned))

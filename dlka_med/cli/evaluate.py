"""dlka evaluate"""

import argparse
import sys
from pathlib import Path

from dlka_med.cli.parser import number, whole_number
from dlka_med.files import refuse_existing
from dlka_med.paths import could_hold_files, existing

SUMMARY = "compare label maps with reference labels, in millimetres or pixels"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("predictions", type=Path, metavar="PREDICTIONS", help="folder of label maps")
    add("labels", type=Path, metavar="LABELS", help="folder of reference labels, paired by case id")
    add("--out", "-o", type=Path, required=True, metavar="OUT", help="folder for cases.csv and summary.json")
    add("--tolerance", type=number(0), default=1.0, metavar="MM", help="of the surface Dice (1); in 2D in pixels")
    add("--workers", type=whole_number(1), default=1, metavar="N", help="processes that compare (1)")
    add("--strict", action="store_true", help="refuse cases and labels that one side alone has")


def run(options: argparse.Namespace) -> None:
    existing(options.predictions, "a folder of label maps, or one of them")
    existing(options.labels, "a folder of reference labels, one of them, or a dataset")
    refuse_existing(could_hold_files(options.out))

    from dlka_med.evaluation.evaluate import evaluate, format_summary

    summary = evaluate(
        options.predictions,
        options.labels,
        options.out,
        tolerance=options.tolerance,
        workers=options.workers,
        strict=options.strict,
    )
    sys.stdout.write(format_summary(summary).rstrip("\n") + "\n")

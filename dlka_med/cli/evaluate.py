"""dlka evaluate"""

import argparse
import sys
from pathlib import Path

from dlka_med.cli.parser import Named, number, whole_number
from dlka_med.files import refuse_existing
from dlka_med.paths import could_hold_files, existing

SUMMARY = "compare label maps with reference labels, in millimetres or pixels"
CONVENTIONS = ("synapse-2d", "brats", "decathlon", "nnunet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("predictions", type=Path, metavar="PREDICTIONS", help="folder of label maps")
    add("labels", type=Path, metavar="LABELS", help="folder of reference labels, paired by case id")
    add("--out", "-o", type=Path, required=True, metavar="OUT", help="folder for cases.csv and summary.json")
    told = "of the surface Dice (1), in 2D in pixels; LABEL=MM for one label, repeatable"
    add("--tolerance", type=_tolerance, action=Named, default={}, metavar="[LABEL=]MM", help=told)
    told = "match the connected components of these labels"
    add("--lesions", nargs="+", action="extend", default=[], metavar="LABEL", help=told)
    told = "IoU that makes a component and one of the reference a pair (0.1)"
    add("--lesion-overlap", type=number(0), default=0.1, metavar="IOU", help=told)
    told = "compare the centre lines of these labels (clDice)"
    add("--tubes", nargs="+", action="extend", default=[], metavar="LABEL", help=told)
    add("--convention", choices=CONVENTIONS, help="also compute what published tables report, by their rules")
    told = "other predictions, compared in pairs"
    add("--against", nargs="+", action="extend", type=Path, default=[], metavar="OTHER", help=told)
    add("--groups", type=Path, metavar="CSV", help="table of cases and patients (groups.csv of the labels)")
    add("--workers", type=whole_number(1), default=1, metavar="N", help="processes that compare (1)")
    add("--strict", action="store_true", help="refuse cases and labels that one side alone has")


def run(options: argparse.Namespace) -> None:
    existing(options.predictions, "a folder of label maps, or one of them")
    existing(options.labels, "a folder of reference labels, one of them, or a dataset")
    for other in options.against:
        existing(other, "a folder of label maps, or one of them")
    if options.groups is not None:
        existing(options.groups, "a CSV file of cases and groups")
    refuse_existing(could_hold_files(options.out))

    from dlka_med.evaluation.evaluate import evaluate
    from dlka_med.evaluation.measures import Protocol
    from dlka_med.evaluation.tables import format_summary

    protocol = Protocol(
        tolerance=options.tolerance.get(None, 1.0),
        tolerances={label: millimetres for label, millimetres in options.tolerance.items() if label is not None},
        tubes=tuple(options.tubes),
        lesions=tuple(options.lesions),
        lesion_overlap=options.lesion_overlap,
        convention=options.convention,
    )
    summary = evaluate(
        options.predictions,
        options.labels,
        options.out,
        protocol=protocol,
        groups=options.groups,
        against=options.against,
        workers=options.workers,
        strict=options.strict,
    )
    sys.stdout.write(format_summary(summary).rstrip("\n") + "\n")


def _tolerance(text: str) -> tuple[str | None, float]:
    """1.5, or kidney=1.5."""
    label, equals, millimetres = text.rpartition("=")
    return label if equals else None, number(0)(millimetres)

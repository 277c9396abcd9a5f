"""dlka report"""

import argparse
import os
import sys
from pathlib import Path

from dlka_med.cli.parser import device, whole_number
from dlka_med.errors import InputError
from dlka_med.paths import could_hold_files, existing

SUMMARY = "write one HTML file about a run: figures, worst and best cases, curves, data, settings"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="run folder, folder of folds, or folder of a comparison")
    told = "folder of label maps (made now, or found, of the cases that validated)"
    add("predictions", type=Path, nargs="?", metavar="PREDICTIONS", help=told)
    add("--against", type=Path, metavar="OTHER", help="other predictions of the same cases, compared in pairs")
    add("--out", "-o", type=Path, metavar="FILE", help="HTML file to write (RUN/report.html)")
    add("--device", type=device, metavar="DEVICE", help="cpu or cuda, for predicting (cuda where there is one)")
    told = "processes that evaluate and check (one evaluates, one per core check)"
    add("--workers", type=whole_number(1), metavar="N", help=told)


def run(options: argparse.Namespace) -> None:
    from dlka_med.report.subject import open_subject

    open_subject(options.run)
    for predictions in (options.predictions, options.against):
        if predictions is not None:
            existing(predictions, "a folder of label maps")
    out = options.out or options.run / "report.html"
    new_file(out, (".html", ".htm"))

    from dlka_med.report.report import write_report

    write_report(
        options.run,
        options.predictions,
        out=out,
        against=options.against,
        device=options.device,
        workers=options.workers,
    )
    sys.stdout.write(f"{out}\n")


def new_file(path: Path, endings: tuple[str, ...]) -> None:
    """Raise `InputError` unless this can become a new file whose name ends so."""
    if path.suffix.lower() not in endings:
        raise InputError(f"{path} is to end with {' or '.join(endings)}: give it such a name")
    if os.path.lexists(path):
        raise InputError(f"{path} exists already: name another file with -o, or move this one away")
    could_hold_files(path)

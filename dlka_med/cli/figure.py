"""dlka figure"""

import argparse
import sys
from pathlib import Path

from dlka_med.cli.parser import device
from dlka_med.cli.report import new_file

SUMMARY = "draw a case with its reference and its prediction, in three planes, as PNG, SVG or PDF"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="run folder, folder of folds, or folder of a comparison")
    add("case", metavar="CASE", help="id of a case of the run's dataset")
    add("--out", "-o", type=Path, metavar="FILE", help="picture: PNG, SVG or PDF, as its name ends (CASE.png)")
    add("--device", type=device, metavar="DEVICE", help="cpu or cuda (cuda where there is one)")


def run(options: argparse.Namespace) -> None:
    from dlka_med.report.subject import case_of, open_subject

    subject = open_subject(options.run)
    case_of(subject, options.case)
    out = options.out or Path(f"{options.case}.png")
    new_file(out, (".png", ".svg", ".pdf"))

    from dlka_med.report.panels import draw_case

    draw_case(subject, options.case, out, options.device)
    sys.stdout.write(f"{out}\n")

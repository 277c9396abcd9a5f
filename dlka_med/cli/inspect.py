"""dlka inspect"""

import argparse
import sys
from pathlib import Path

from dlka_med.cli.parser import device, whole_number
from dlka_med.files import refuse_existing
from dlka_med.paths import could_hold_files, existing

SUMMARY = "show where the kernel points of a run's deformable layers go on one image, and what that changes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="run folder made by dlka train")
    add("image", type=Path, metavar="IMAGE", help="one image")
    add("--out", "-o", type=Path, metavar="OUT", help="new folder for pictures and inspect.json (inspect/<case>)")
    add("--label", type=Path, metavar="FILE", help="label map that figures are told by (the network's own prediction)")
    told = "that are counted, those with most labelled voxels (4)"
    add("--windows", type=whole_number(1), default=4, metavar="N", help=told)
    add("--device", type=device, metavar="DEVICE", help="cpu or cuda (cuda where there is one)")


def run(options: argparse.Namespace) -> None:
    from dlka_med.run_folder import RunFolder

    RunFolder.open(options.run).refuse_untrained()
    existing(options.image, "one image")
    if options.label is not None:
        existing(options.label, "a label map of the image")
    if options.out is not None:
        refuse_existing(could_hold_files(options.out))

    from dlka_med.inspection.inspect_image import inspect_image
    from dlka_med.inspection.inspect_table import format_inspection

    content = inspect_image(
        options.run,
        options.image,
        options.out,
        label=options.label,
        device=options.device,
        windows=options.windows,
    )
    sys.stdout.write(format_inspection(content) + f"Pictures are in {content['out']}.\n")

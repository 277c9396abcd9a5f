"""dlka info"""

import argparse
import json
import re
import sys
from pathlib import Path

from dlka_med.cli.parser import device, whole_number
from dlka_med.cli.plan import NETWORKS

SUMMARY = "what a network costs and sees: parameters, multiply-adds, memory, receptive field, times on this machine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    told = f"run folder, YAML file of a config, or a network: {', '.join(NETWORKS)}"
    add("what", type=Path, metavar="RUN|CONFIG|NETWORK", help=told)
    told = "size of the window (that of the config; of a network 224,224 or 64,64,64)"
    add("--patch", type=_sizes, metavar="64,64,64", help=told)
    add("--channels", type=whole_number(1), metavar="N", help="of the image, where nothing tells them (1)")
    add("--classes", type=whole_number(2), metavar="N", help="background included, where nothing tells them (2)")
    add("--device", type=device, metavar="DEVICE", help="on which it is timed: cpu or cuda (cuda where there is one)")
    add("--no-timing", action="store_true", help="time nothing: no window is predicted and no step is trained")
    add("--json", action="store_true", help="print JSON, not tables")


def run(options: argparse.Namespace) -> None:
    from dlka_med.inspection.subject import find_subject

    asked = {"patch": options.patch, "channels": options.channels, "classes": options.classes}
    find_subject(options.what, **asked)

    from dlka_med.inspection.info import describe
    from dlka_med.inspection.info_table import format_info

    content = describe(options.what, **asked, device=options.device, timed=not options.no_timing)
    sys.stdout.write(json.dumps(content, indent=2) + "\n" if options.json else format_info(content))


def _sizes(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*){1,2}", text, re.ASCII):
        raise argparse.ArgumentTypeError(
            f"expected two or three sizes with commas between, such as 64,64,64, got {text!r}"
        )
    return tuple(map(int, text.split(",")))

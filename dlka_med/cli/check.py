"""dlka check"""

import argparse
import sys
from pathlib import Path

from dlka_med.cli.parser import whole_number
from dlka_med.errors import InputError
from dlka_med.files import refuse_existing
from dlka_med.paths import could_hold_files, existing

SUMMARY = "look for faults in a dataset, and write a mended copy"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("dataset", type=Path, metavar="DATASET", help="folder: Decathlon, nnU-Net v2, or images beside labels")
    add("--fix", type=Path, metavar="OUT", help="new folder for a mended copy; the dataset itself is only read")
    add("--json", type=Path, metavar="FILE", help="write all findings and the summary to this file")
    add("--config", type=Path, metavar="CONFIG", help="YAML file whose channels, labels, groups, folds, spacing count")
    add("--groups", type=Path, metavar="CSV", help="table of cases and groups (groups.csv of the dataset)")
    add("--folds", type=whole_number(2), metavar="N", help="of the cross-validation that is meant (5)")
    add("--workers", type=whole_number(1), metavar="N", help="processes, each with one case in memory (one per core)")


def run(options: argparse.Namespace) -> int:
    existing(options.dataset, "the folder of a dataset")
    if options.groups is not None:
        existing(options.groups, "a CSV file of cases and groups")
    if options.fix is not None:
        refuse_existing(could_hold_files(options.fix))
    if options.json is not None:
        could_hold_files(options.json.parent)
        if options.json.is_dir():
            raise InputError(f"{options.json} is a folder: name a file to write the findings to")
        if options.fix is not None and options.json.absolute().is_relative_to(options.fix.absolute()):
            raise InputError(f"--json {options.json} lies in the folder that --fix makes: name a file outside of it")
    chosen = {}
    if options.config is not None:
        from dlka_med.config.loading import load_config
        from dlka_med.data.folds import read_folds

        config = load_config(existing(options.config, "the YAML file of a config"))
        chosen = {key: getattr(config.dataset, key) for key in ("channels", "labels", "groups", "folds")}
        if isinstance(config.dataset.folds, str):
            chosen["folds"] = len(read_folds(existing(config.dataset.folds, "a JSON file of folds as dataset.folds")))
        if config.preprocessing.orientation == "RAS" and config.image_dims == 3:
            chosen["spacing"] = config.preprocessing.spacing
    given = {"groups": options.groups, "folds": options.folds}
    chosen |= {key: value for key, value in given.items() if value is not None}

    from dlka_med.checking.check import check_dataset

    report = check_dataset(options.dataset, workers=options.workers, **chosen)
    sys.stdout.write(report.describe())
    if options.json is not None:
        report.save(options.json)
    if options.fix is None:
        return 0 if report.is_clean else 1

    from dlka_med.checking.fix import fix_dataset

    fixes = fix_dataset(report, options.fix, options.workers)
    sys.stdout.write(fixes.describe())
    return 1 if fixes.left_out else 0

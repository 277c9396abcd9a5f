"""dlka compare"""

import argparse
import difflib
import sys
from pathlib import Path

from dlka_med.cli.parser import device, fold_numbers, number, shard, whole_number
from dlka_med.cli.plan import NETWORKS
from dlka_med.paths import existing

SUMMARY = "compare networks on one dataset: the same plan, seeds and folds for all, with what may be claimed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("dataset", type=Path, metavar="DATASET", help="folder of the dataset")
    add("--out", "-o", type=Path, required=True, metavar="OUT", help="folder to make, or comparison to go on with")
    told = f"two or more with commas between; the first is compared with each other: {', '.join(NETWORKS)}"
    add("--networks", type=_networks, required=True, metavar="A,B", help=told)
    time = parser.add_mutually_exclusive_group(required=True)
    time.add_argument("--minutes", type=number(0.01), metavar="N", help="of each training")
    time.add_argument("--epochs", type=whole_number(1), metavar="N", help="of each training, 250 steps each")
    add("--seeds", type=whole_number(1), default=3, metavar="N", help="trainings of each network and fold (3)")
    add("--folds", type=fold_numbers, default=(0,), metavar="all|0,1", help="folds that validate in turn (0)")
    told = "train only the I-th run, counted from 0, and every N-th after it: for N commands at a time"
    add("--shard", type=shard, metavar="I/N", help=told)
    add("--memory", type=number(0.01), metavar="GIB", help="that a training may take (most of what is free)")
    add("--device", type=device, metavar="NAME", help="cpu, cuda or cuda:1 (a GPU if there is one)")
    add("--workers", type=whole_number(1), metavar="N", help="processes that read the cases and evaluate")


def run(options: argparse.Namespace) -> None:
    from dlka_med.comparing.folder import Asked, ComparisonFolder, absolute

    existing(options.dataset, "the folder of a dataset")
    folds = options.folds or None
    limits = (options.minutes, options.epochs, options.memory, options.device)
    asked = Asked(str(options.dataset), options.networks, *limits, options.seeds, folds)
    ComparisonFolder(options.out).agree(absolute(asked))

    from dlka_med.training.shards import leave_launcher

    mine = options.shard or leave_launcher()

    from dlka_med.comparing.compare import compare
    from dlka_med.comparing.table import format_comparison

    result = compare(
        options.dataset,
        options.out,
        networks=options.networks,
        minutes=options.minutes,
        epochs=options.epochs,
        seeds=options.seeds,
        folds=folds,
        shard=mine,
        memory=options.memory,
        device=options.device,
        workers=options.workers,
    )
    if result is not None:
        sys.stdout.write(format_comparison(result))


def _networks(text: str) -> tuple[str, ...]:
    """The type of an option: names of two networks or more."""
    names = tuple(text.split(","))
    for name in names:
        if name not in NETWORKS:
            near = difflib.get_close_matches(name, NETWORKS, n=2, cutoff=0.4) or NETWORKS
            raise argparse.ArgumentTypeError(f"there is no network {name!r}; did you mean {' or '.join(near)}?")
    if len(names) < 2 or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"expected two different networks or more, got {text!r}")
    return names

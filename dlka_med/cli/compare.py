"""dlka compare"""

import argparse
import difflib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dlka_med.cli.parser import OVERRIDES, device, fold_numbers, number, shard, whole_number
from dlka_med.cli.plan import NETWORKS
from dlka_med.cli.train import look_at_data
from dlka_med.errors import InputError
from dlka_med.paths import existing

# Help is shown before pydantic is imported.
if TYPE_CHECKING:
    from dlka_med.comparing.folder import Asked
    from dlka_med.config.schema import RunConfig

SUMMARY = (
    "compare networks on one dataset, or a D-LKA network with variants of itself: the same data, recipe, seeds and "
    "folds for all, with what may be claimed"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    told = "folder of the dataset; with --ablate in place of dataset.root"
    add("dataset", type=Path, nargs="?", metavar="DATASET", help=told)
    add("--out", "-o", type=Path, required=True, metavar="OUT", help="folder to make, or comparison to go on with")
    what = parser.add_mutually_exclusive_group(required=True)
    told = f"two or more with commas between; the first is compared with each other: {', '.join(NETWORKS)}"
    what.add_argument("--networks", type=_networks, metavar="A,B", help=told)
    what.add_argument(
        "--ablate",
        type=Path,
        metavar="CONFIG",
        help="YAML file or run folder of a D-LKA network, which is compared with itself without offsets (still), as "
        "plain large kernel attention (plain), with plain convs of as many parameters (wide), without attention "
        "(absent)",
    )
    told = "with --ablate: also each variant in one stage that deforms alone, such as wide_stage_1, counted from 0"
    add("--by-stage", action="store_true", help=told)
    add("-s", "--set", **OVERRIDES, help="with --ablate: replace one value of the config; repeatable")
    time = parser.add_mutually_exclusive_group()
    told = "of each training; with --ablate in place of the config's limit"
    time.add_argument("--minutes", type=number(0.01), metavar="N", help=told)
    time.add_argument(
        "--epochs", type=whole_number(1), metavar="N", help="the same in epochs; planned ones of 250 steps"
    )
    add("--seeds", type=whole_number(1), default=3, metavar="N", help="trainings of each network and fold (3)")
    told = "lr: search for the learning rate of each network first, in short trainings without the first compared fold"
    add("--tune", choices=("lr",), help=told)
    add("--folds", type=fold_numbers, default=(0,), metavar="all|0,1", help="folds that validate in turn (0)")
    told = "train only the I-th run, counted from 0, and every N-th after it: for N commands at a time"
    add("--shard", type=shard, metavar="I/N", help=told)
    told = "with --networks: that a training may take (most of what is free)"
    add("--memory", type=number(0.01), metavar="GIB", help=told)
    told = "cpu, cuda or cuda:1 (a GPU if there is one; with --ablate as the config says)"
    add("--device", type=device, metavar="NAME", help=told)
    told = "with --networks: what the minutes are of; processor: of work, where other programs run beside (wall)"
    add("--clock", choices=("wall", "processor"), default="wall", help=told)
    add("--workers", type=whole_number(1), metavar="N", help="processes that read the cases and evaluate")


def run(options: argparse.Namespace) -> None:
    from dlka_med.comparing.folder import ComparisonFolder, agree_early

    shared = {"seeds": options.seeds, "folds": options.folds or None, "device": options.device}
    shared["tune"] = options.tune
    if options.ablate is None:
        asked = _contest(options)
    else:
        from dlka_med.comparing.ablation import ablation

        config = _config(options)
        asked = ablation(config, by_stage=options.by_stage, **shared)
    agree_early(ComparisonFolder(options.out), asked)

    from dlka_med.shards import leave_launcher

    shared |= {"shard": options.shard or leave_launcher(), "workers": options.workers}

    from dlka_med.comparing.compare import ablate, compare
    from dlka_med.comparing.table import format_comparison

    if options.ablate is None:
        limits = {"minutes": options.minutes, "epochs": options.epochs, "memory": options.memory}
        limits["clock"] = options.clock
        result = compare(options.dataset, options.out, networks=options.networks, **limits, **shared)
    else:
        result = ablate(config, options.out, by_stage=options.by_stage, **shared)
    if result is not None:
        sys.stdout.write(format_comparison(result))


def _contest(options: argparse.Namespace) -> "Asked":
    """What is asked for with --networks."""
    from dlka_med.comparing.folder import Asked, absolute

    if options.dataset is None:
        raise InputError("--networks are planned for a dataset: give its folder before the options")
    if options.by_stage or options.overrides:
        raise InputError(f"{'--by-stage' if options.by_stage else '-s'} belongs to --ablate, --networks has no config")
    existing(options.dataset, "the folder of a dataset")
    limits = (options.minutes, options.epochs, options.memory, options.device)
    chosen = options.folds or None
    return absolute(
        Asked(
            str(options.dataset),
            options.networks,
            *limits,
            options.seeds,
            chosen,
            clock=options.clock,
            tune=options.tune,
        )
    )


def _config(options: argparse.Namespace) -> "RunConfig":
    """The config of --ablate with what other options replace."""
    from dlka_med.config.loading import load_config

    if options.clock != "wall":
        raise InputError("--clock belongs to --networks: with --ablate say -s training.clock=processor")
    if options.memory is not None:
        raise InputError("--memory belongs to --networks: with --ablate the config is planned already")
    replaced = list(options.overrides)
    if options.dataset is not None:
        existing(options.dataset, "the folder of a dataset")
        replaced.append(f"dataset.root={json.dumps(str(options.dataset))}")
    if options.minutes is not None:
        replaced += [f"training.minutes={options.minutes}", "training.epochs=null"]
    if options.epochs is not None:
        replaced += [f"training.epochs={options.epochs}", "training.minutes=null"]
    config = load_config(options.ablate, replaced)
    look_at_data(config, started=False)
    return config


def _networks(text: str) -> tuple[str, ...]:
    """The type of an option: names of two networks or more."""
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in NETWORKS:
            near = difflib.get_close_matches(name, NETWORKS, n=2, cutoff=0.4) or NETWORKS
            raise argparse.ArgumentTypeError(f"there is no network {name!r}; did you mean {' or '.join(near)}?")
    if len(names) < 2 or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"expected two different networks or more, got {text!r}")
    return names

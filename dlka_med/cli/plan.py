"""dlka plan"""

import argparse
import os
from pathlib import Path

from dlka_med.cli.parser import device, number, whole_number
from dlka_med.errors import InputError
from dlka_med.paths import could_hold_files, existing

SUMMARY = "plan a training: a complete config for a dataset and a budget, every value with its reason"


# Spelled out, since to import the configs takes longer than all else that a parser needs.
NETWORKS = (
    "dlka_net_2d",
    "dlka_net_3d",
    "dlka_unet",
    "unet",
    "dynunet",
    "segresnet",
    "swin_unetr",
    "mednext",
    "timm_unet",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("dataset", type=Path, metavar="DATASET", help="folder of the dataset")
    add("--out", "-o", type=Path, required=True, metavar="YAML", help="config to write; folds and facts lie beside it")
    told = "which network (dlka_net_3d for volumes; for images dlka_unet, or dlka_net_2d for a long run on a GPU)"
    add("--network", choices=NETWORKS, help=told)
    time = parser.add_mutually_exclusive_group()
    time.add_argument("--minutes", type=number(0.01), metavar="N", help="of training (20 on a CPU)")
    time.add_argument("--epochs", type=whole_number(1), metavar="N", help="of training, 250 steps each (1000 on a GPU)")
    add("--memory", type=number(0.01), metavar="GIB", help="that training may take (most of what is free)")
    add("--device", type=device, metavar="NAME", help="cpu, cuda or cuda:1 (a GPU if there is one)")
    add("--workers", type=whole_number(1), metavar="N", help="processes that read the cases (one per core)")


def run(options: argparse.Namespace) -> None:
    existing(options.dataset, "the folder of a dataset")
    out = options.out
    if out.suffix.lower() not in (".yaml", ".yml"):
        raise InputError(f"{out} is to be a YAML file: give it a name that ends with .yaml")
    if os.path.exists(out):
        raise InputError(f"{out} exists already: name another file, or move this one away")
    could_hold_files(out)

    from dlka_med.planning.plan import plan

    plan(
        options.dataset,
        out,
        network=options.network,
        minutes=options.minutes,
        epochs=options.epochs,
        memory=options.memory,
        device=options.device,
        workers=options.workers,
    )

"""dlka predict"""

import argparse
import re
from contextlib import nullcontext
from pathlib import Path

from dlka_med.cli.parser import Named, device, number, shard
from dlka_med.data.formats import OUTPUTS
from dlka_med.errors import InputError
from dlka_med.paths import could_hold_files, existing

SUMMARY = "write a label map for each image, on the image's own grid"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="run folder made by dlka train, or a folder of folds")
    add("images", type=Path, metavar="IMAGES", help="an image, a folder of images, a dataset, or DICOM")
    add("--out", "-o", type=Path, required=True, metavar="OUT", help="folder for the label maps")
    told = "another run that predicts together with RUN: probabilities are averaged; repeatable"
    add("--with", dest="others", type=Path, action="append", default=[], metavar="RUN", help=told)
    add(
        "--split",
        choices=("train", "validation", "test", "all"),
        help="only these cases of the dataset that the run was trained on",
    )
    add("--device", type=device, metavar="DEVICE", help="cpu or cuda (cuda where there is one)")
    add(
        "--mirror",
        action="store_true",
        help="average over images mirrored along the axes that training mirrored: better and slower",
    )
    add(
        "--mirror-axes",
        type=_axes,
        metavar="AXES",
        help="mirror along these axes of the prepared image instead, such as 0,1",
    )
    add(
        "--overlap",
        type=number(0, below=1),
        metavar="SHARE",
        help="of neighbouring windows, 0 to below 1 (as in the config)",
    )
    told = "larger steps of the window and no mirroring; the cost in Dice is measured on validation cases, and told"
    add("--fast", action="store_true", help=told)
    told = "masks called as the cases, or that of a single case: only the box of what is not 0 there is predicted"
    add("--crop", type=Path, metavar="MASKS", help=told)
    add(
        "--memory",
        type=number(0),
        metavar="GIB",
        help="what predicting may hold at its peak, Python included, and of a GPU as much (what is free)",
    )
    add(
        "--one-file-per-case",
        action="store_true",
        help="files that end in _0000, _0001 and so on are cases of their own, not channels of one",
    )
    add(
        "--probabilities",
        nargs="?",
        const="uint8",
        choices=("uint8", "float16"),
        help="also write those of all classes or regions into OUT/probabilities, as uint8 (the default) or float16",
    )
    told = "also write into OUT/uncertainty how unsure it is, and into OUT/disagreement how far runs disagree"
    add("--uncertainty", action="store_true", help=told)
    told = "probability over which a voxel belongs to a region (0.5); repeatable"
    add("--threshold", type=_threshold, action=Named, default={}, metavar="REGION=P", help=told)
    told = "leave out cases that OUT holds already, by this run with these settings"
    add("--skip-existing", action="store_true", help=told)
    told = "predict only the I-th case, counted from 0, and every N-th after it: for N commands at a time"
    add("--shard", type=shard, metavar="I/N", help=told)
    add(
        "--series",
        type=_list,
        action="extend",
        default=[],
        metavar="A,B",
        help="of DICOM files, number or SeriesInstanceUID of the series for each channel (the only one); repeatable",
    )
    add("--format", dest="form", choices=tuple(OUTPUTS), help="of the label maps of volumes (that of the image)")
    add(
        "--no-postprocess",
        dest="postprocess",
        action="store_false",
        help="the network's label maps, without what dlka postprocess learned",
    )


def run(options: argparse.Namespace) -> None:
    from dlka_med.inference.members import members_of

    runs = [options.run, *options.others]
    for member in members_of(runs):
        member.refuse_untrained()
    existing(options.images, "an image file, a folder of them, or a dataset")
    could_hold_files(options.out)
    if options.crop is not None:
        existing(options.crop, "a mask, or a folder of masks that are called as the cases")
    mirror = options.mirror if options.mirror_axes is None else options.mirror_axes
    if options.fast and (mirror is not False or options.overlap is not None):
        raise InputError("--fast chooses overlap and mirroring itself: leave out the others, or --fast")

    from dlka_med.shards import ALONE, leave_launcher, outlasting

    launched = ALONE if options.shard else leave_launcher()

    from dlka_med.inference.predict import predict_images

    with nullcontext() if launched == ALONE else outlasting(options.out, launched):
        predict_images(
            runs if options.others else options.run,
            options.images,
            options.out,
            split=options.split,
            device=options.device,
            mirror=mirror,
            overlap=options.overlap,
            skip_existing=options.skip_existing,
            one_file_per_case=options.one_file_per_case,
            memory=options.memory,
            shard=options.shard or launched,
            crop=options.crop,
            fast=options.fast,
            probabilities=options.probabilities,
            uncertainty=options.uncertainty,
            thresholds=options.threshold,
            form=options.form,
            series=tuple(options.series),
            postprocess=options.postprocess,
        )


def _threshold(text: str) -> tuple[str, float]:
    region, equals, probability = text.rpartition("=")
    if not equals or not region:
        raise argparse.ArgumentTypeError(f"expected REGION=P, such as core=0.4, got {text!r}")
    return region, number(0, below=1)(probability)


def _list(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f"expected numbers or UIDs with commas between, such as 2,5, got {text!r}")
    return names


def _axes(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[0-2](,[0-2])*", text):
        raise argparse.ArgumentTypeError(f"expected axes from 0 to 2 with commas between, such as 0,1, got {text!r}")
    return tuple(map(int, text.split(",")))

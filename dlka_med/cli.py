"""The command `dlka`: each verb is one call of the library, imported when the verb runs."""

import argparse
import difflib
import errno
import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from dlka_med import __version__
from dlka_med.errors import InputError

logger = logging.getLogger("dlka_med")

DISK_ERRORS = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENOENT,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}


class Parser(argparse.ArgumentParser):
    """An argument parser that answers in one line and names what was probably meant."""

    def __init__(self, **arguments):
        super().__init__(allow_abbrev=False, **arguments)
        self._given: list[str] = []

    def parse_known_args(self, args=None, namespace=None):
        self._given = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(self._given, namespace)

    def error(self, message: str):
        hints = [f"did you mean {near}?" for near in self._nearest(message)]
        hints.append(f"{self.prog} --help tells more")
        self.exit(2, f"{self.prog}: {message}; {' '.join(hints)}\n")

    def _nearest(self, message: str) -> list[str]:
        options = set(re.findall(r"--[a-z][a-z-]*", self.format_help()))
        given = (word.partition("=")[0] for word in self._given if word.startswith("--"))
        pairs = [(word, options) for word in given if word not in options]
        if choice := re.search(r"invalid choice: '?([^' ]+)'? \(choose from (.*)\)", message):
            pairs.append((choice[1], re.findall(r"[\w-]+", choice[2])))
        return [near for word, known in pairs for near in difflib.get_close_matches(word, known, n=1)]


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected an integer, 0 or more, got {text!r}")
    return int(text)


def _axes(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[0-2](,[0-2])*", text):
        raise argparse.ArgumentTypeError(f"expected axes from 0 to 2 with commas between, such as 0,1, got {text!r}")
    return tuple(map(int, text.split(",")))


def _demo(options: argparse.Namespace) -> None:
    from dlka_med.demo import run_demo

    sys.stdout.write(run_demo(options.out, seed=options.seed, dims=options.dims).describe())


def _train(options: argparse.Namespace) -> None:
    from dlka_med.config.loading import load_config

    path, out = options.config, options.out
    if path.is_dir():
        if not options.resume:
            raise InputError(f"{path} is a folder: name a YAML file, or add --resume to go on with the run in it")
        out = out or path
    config = load_config(path, options.overrides)

    from dlka_med.training.train import train  # takes seconds, so a mistake in the config is told before

    train(config, out or Path("runs") / config.name, resume=options.resume)


def _predict(options: argparse.Namespace) -> None:
    from dlka_med.inference.predict import predict_images

    predict_images(
        options.run,
        options.images,
        options.out,
        split=options.split,
        device=options.device,
        mirror=options.mirror,
        overlap=options.overlap,
        skip_existing=options.skip_existing,
    )


def _evaluate(options: argparse.Namespace) -> None:
    from dlka_med.evaluation.evaluate import evaluate, format_summary

    summary = evaluate(
        options.predictions,
        options.labels,
        options.out,
        tolerance=options.tolerance,
        workers=options.workers,
    )
    sys.stdout.write(format_summary(summary).rstrip("\n") + "\n")


def _import_weights(options: argparse.Namespace) -> None:
    from dlka_med.config.loading import load_config

    config = load_config(options.config, options.overrides)

    from dlka_med.import_weights import import_weights

    _, report = import_weights(options.file, config, options.out, partial=options.partial)
    sys.stdout.write(report.summary + "\n")


def _schema(options: argparse.Namespace) -> None:
    from dlka_med.config.loading import json_schema

    sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")


def build_parser() -> tuple[Parser, dict[str, Parser]]:
    """The parser of the command, and that of each verb by its name."""
    debug = argparse.ArgumentParser(add_help=False)
    debug.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show stack traces and every warning"
    )
    parser = Parser(
        prog="dlka",
        description="Medical image segmentation with Deformable Large Kernel Attention (D-LKA).",
        epilog="dlka VERB --help tells about one verb.",
        parents=[debug],
    )
    parser.add_argument("--version", action="version", version=f"dlka_med {__version__}")
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    verbs: dict[str, Parser] = {}
    overrides = {"dest": "overrides", "action": "append", "default": [], "metavar": "KEY=VALUE"}

    def add_verb(name, function, summary):
        verbs[name] = subparsers.add_parser(name, parents=[debug], help=summary, description=summary)
        verbs[name].set_defaults(function=function)
        return verbs[name].add_argument

    add = add_verb("demo", _demo, "make a small brain MRI dataset, then train, predict and evaluate (4 minutes)")
    add("--out", "-o", type=Path, required=True, metavar="DIR", help="new folder for all of it")
    add(
        "--dims",
        type=int,
        choices=(2, 3),
        default=3,
        help="blocks and the 3D network, or slices and the 2D network (3)",
    )
    add("--seed", type=_seed, default=0, metavar="N", help="seed of the dataset and of the training")

    add = add_verb("train", _train, "train the network that a YAML file describes")
    add("config", type=Path, metavar="CONFIG", help="YAML file; with --resume also the run folder")
    add("--out", "-o", type=Path, metavar="RUN", help="run folder to make (runs/<name of the config>)")
    add("-s", "--set", **overrides, help="replace one value of the config, such as training.minutes=20; repeatable")
    add("--resume", action="store_true", help="go on with an interrupted run")

    add = add_verb("predict", _predict, "write a label map for each image, on the image's own grid")
    add("run", type=Path, metavar="RUN", help="run folder made by dlka train")
    add("images", type=Path, metavar="IMAGES", help="an image, a folder of images, or a dataset")
    add("--out", "-o", type=Path, required=True, metavar="OUT", help="folder for the label maps")
    add(
        "--split",
        choices=("train", "validation", "test", "all"),
        help="only these cases of the dataset that the run was trained on",
    )
    add("--device", metavar="DEVICE", help="cpu or cuda (cuda where there is one)")
    add(
        "--mirror",
        action="store_true",
        help="average over images mirrored along the axes that training mirrored: better and slower",
    )
    add(
        "--mirror-axes",
        dest="mirror",
        type=_axes,
        default=argparse.SUPPRESS,
        metavar="AXES",
        help="mirror along these axes of the prepared image instead, such as 0,1",
    )
    add(
        "--overlap",
        type=float,
        metavar="SHARE",
        help="of neighbouring windows, 0 to below 1 (as in the config)",
    )
    add("--skip-existing", action="store_true", help="leave out cases that OUT holds already")

    add = add_verb("evaluate", _evaluate, "compare label maps with reference labels, in millimetres or pixels")
    add("predictions", type=Path, metavar="PREDICTIONS", help="folder of label maps")
    add("labels", type=Path, metavar="LABELS", help="folder of reference labels, paired by case id")
    add("--out", "-o", type=Path, required=True, metavar="OUT", help="folder for cases.csv and summary.json")
    add("--tolerance", type=float, default=1.0, metavar="MM", help="of the surface Dice (1); of 2D images in pixels")
    add("--workers", type=int, default=1, metavar="N", help="processes that compare (1)")

    add = add_verb("import-weights", _import_weights, "make a run folder of a checkpoint of the original D-LKA code")
    add("file", type=Path, metavar="FILE", help="the authors' file (.model in 3D, .pth in 2D)")
    add(
        "--config", type=Path, required=True, metavar="CONFIG", help="YAML file that describes the checkpoint's network"
    )
    add("--out", "-o", type=Path, required=True, metavar="RUN", help="run folder to make")
    add("-s", "--set", **overrides, help="replace one value of the config, such as dataset.root=FOLDER; repeatable")
    add("--partial", action="store_true", help="keep what fits of a checkpoint of other classes, channels or sizes")

    add_verb("schema", _schema, "print the JSON Schema of configs, for editors")
    return parser, verbs


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; return its exit code: 0, 2 for a mistake of the user, 130 after Ctrl-C."""
    parser, verbs = build_parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        verbs[options.verb].error(f"unknown argument {' '.join(unknown)}")
    debug = getattr(options, "debug", False)
    _set_up_output(debug)
    try:
        options.function(options)
        sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        return _end("stopped by the keyboard", 130, debug)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except InputError as error:
        return _end(f"error: {error}", 2, debug)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        place = f"{error.filename}: " if error.filename else ""
        return _end(f"error: {place}{error.strerror}", 2, debug)


def _end(message: str, code: int, debug: bool) -> int:
    logger.error(message, exc_info=debug)
    return code


def _set_up_output(debug: bool) -> None:
    """Messages of the package go to stderr as plain lines; remarks of others show with --debug only."""
    logger.handlers = [logging.StreamHandler()]
    logger.propagate = False
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    if not debug and not sys.warnoptions:
        warnings.filterwarnings("ignore", module=r"(?!dlka_med)")
        for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.ERROR)

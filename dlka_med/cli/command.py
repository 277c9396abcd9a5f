"""One command line from start to end: parser, output, exit code."""

import argparse
import errno
import io
import logging
import os
import sys
import warnings
from collections.abc import Sequence

from dlka_med import __version__
from dlka_med.cli import (
    calibrate,
    check,
    compare,
    demo,
    evaluate,
    figure,
    import_weights,
    info,
    inspect,
    plan,
    postprocess,
    predict,
    report,
    schema,
    train,
)
from dlka_med.cli.parser import Parser
from dlka_med.errors import InputError

logger = logging.getLogger("dlka_med")

VERBS = {
    "demo": demo,
    "check": check,
    "plan": plan,
    "train": train,
    "calibrate": calibrate,
    "postprocess": postprocess,
    "predict": predict,
    "evaluate": evaluate,
    "compare": compare,
    "info": info,
    "inspect": inspect,
    "report": report,
    "figure": figure,
    "import-weights": import_weights,
    "schema": schema,
}

DISK_ERRORS = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EEXIST,
    errno.EIO,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}


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
    for name, verb in VERBS.items():
        verbs[name] = subparsers.add_parser(name, parents=[debug], help=verb.SUMMARY, description=verb.SUMMARY)
        verbs[name].set_defaults(function=verb.run)
        verb.add_arguments(verbs[name])
    return parser, verbs


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; return its exit code: that of the verb, 2 for a mistake of the user, 130 after Ctrl-C."""
    parser, verbs = build_parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        verbs[options.verb].error(f"unknown argument {' '.join(unknown)}")
    debug = getattr(options, "debug", False)
    _set_up_output(debug)
    try:
        code = options.function(options)
        sys.stdout.flush()
        return code or 0
    except KeyboardInterrupt:
        return _end("stopped by the keyboard", 130, debug)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except InputError as error:
        return _end(f"error: {error}", 2, debug)
    except MemoryError as lack:
        return _end(f"error: there is not enough memory ({str(lack) or 'nothing more is known'})", 2, debug)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        place = f"{error.filename}: " if error.filename else ""
        return _end(f"error: {place}{error.strerror}", 2, debug)


def _end(message: str, code: int, debug: bool) -> int:
    logger.error(message, exc_info=debug)
    return code


def _set_up_output(debug: bool) -> None:
    """Messages of the package go to stderr as plain lines; remarks of others show with --debug only.

    What the encoding of stdout lacks is written as its code, as Python does it on stderr.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    logger.handlers = [logging.StreamHandler()]
    logger.propagate = False
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    if not debug and not sys.warnoptions:
        warnings.filterwarnings("ignore", module=r"(?!dlka_med)")
        for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.ERROR)

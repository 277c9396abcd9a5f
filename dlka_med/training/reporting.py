"""What the loggers of a run are told: its config, and after each epoch the row of `metrics.csv` and the validation."""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath, PureWindowsPath
from tempfile import TemporaryDirectory
from typing import Any

import pytorch_lightning as pl

from dlka_med.config.schema import RunConfig
from dlka_med.errors import InputError
from dlka_med.files import whole_file
from dlka_med.run_folder import RunFolder
from dlka_med.text_files import read_text
from dlka_med.training.callbacks import Recorder
from dlka_med.training.loggers import End, Tool, Value, open_tool
from dlka_med.training.pictures import Pictures
from dlka_med.training.resume import flat
from dlka_med.training.task import SegmentationTask
from dlka_med.training.validation import Validation

GROUPS = {
    "dice": "dice per label",
    "displacement": "displacement",
    "outside undeformed": "outside undeformed",
    "outside": "outside",
    "at limit": "at limit",
}
"""Columns of `metrics.csv` that stand for several, by what they begin with, and the group they are shown in."""

TOLD = ("dice", "best_dice", "loss")

log = logging.getLogger("dlka_med")


class Reporter(pl.Callback):
    """Tells the loggers each epoch once, also over interruptions: `loggers.json` says which they know.

    A logger that fails is left out until the run is resumed, and is told then what it missed.

    Args:
        config: complete, of which absolute paths are not told.
        recorder: has the rows; it is called before.
    """

    def __init__(
        self, config: RunConfig, run: RunFolder, recorder: Recorder, validation: Validation, pictures: Pictures
    ) -> None:
        self.config, self.run = config, run
        self.recorder, self.validation, self.pictures = recorder, validation, pictures
        self.tools: dict[str, Tool] = {}
        self.known: dict[str, dict[str, Any]] = {}

    def on_train_start(self, trainer: pl.Trainer, task: SegmentationTask) -> None:
        names = self.config.training.loggers
        if not names or not trainer.is_global_zero:
            return
        self.known = _read(self.run) if self.recorder.rows else {}
        for name in names:
            before = self.known.get(name)
            tool = open_tool(name, self.run, self.config.name, before and before["identity"])
            self.tools[name] = tool
            if before is None or tool.identity != before["identity"]:
                self.known[name] = {"identity": tool.identity, "epoch": 0}
                with self._spared(name):
                    tool.begin(hyperparameters(self.config), TOLD)
            log.info("%s records this run: %s", name, tool.place)
        self.report()

    def on_train_epoch_end(self, trainer: pl.Trainer, task: SegmentationTask) -> None:
        self.report()

    def report(self) -> None:
        """Tell each logger the epochs that it does not know."""
        rows, behind = self.recorder.rows, list(self.tools)
        if not rows or not behind:
            return
        with TemporaryDirectory() as folder:
            validated = "validation_seconds" in rows[-1] and self.validation.found
            drawn = self.pictures.draw(Path(folder)) if validated else {}
            for name in behind:
                with self._spared(name):
                    self._tell(self.tools[name], self.known[name]["epoch"], drawn)
                    self.known[name]["epoch"] = rows[-1]["epoch"]
        with whole_file(self.run.loggers_file) as file:
            file.write_text(json.dumps(self.known, indent=2) + "\n", encoding="utf-8")

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Around the training: close the loggers, whatever ends it."""
        how: End = "success"
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            how = "interrupted"
            raise
        except BaseException:
            how = "failed"
            raise
        finally:
            for name in list(self.tools):
                with self._spared(name):
                    self.tools[name].end(how)
            self.tools = {}

    def _tell(self, tool: Tool, known: int, drawn: Mapping[str, Path]) -> None:
        missed = [row for row in self.recorder.rows if row["epoch"] > known]
        for row in missed:
            tool.scalars({tag(column): value for column, value in row.items()}, row["step"])
        found = self.validation.found
        if missed and "validation_seconds" in missed[-1] and found:
            step = missed[-1]["step"]
            tool.table("validation", ["case", *self.validation.labels], [[case, *found[case]] for case in found], step)
            for case, file in drawn.items():
                tool.picture(f"case/{case}", file, step)

    @contextmanager
    def _spared(self, name: str) -> Iterator[None]:
        """A server that is down must not end a training."""
        try:
            yield
        except Exception as error:  # each package fails in its own words
            log.warning(
                "training.loggers: %s fails (%s); the training goes on without it, and a resumed one tells it what it "
                "missed",
                name,
                error,
            )
            failed = self.tools.pop(name)
            with suppress(Exception):
                failed.end("failed")


def tag(column: str) -> str:
    """What a column of `metrics.csv` is called in the loggers: `dice per label/liver`, `displacement/encoder.0`."""
    for start, group in GROUPS.items():
        if column.startswith(f"{start} "):
            return f"{group}/{column.removeprefix(f'{start} ')}"
    return column


def hyperparameters(config: RunConfig) -> dict[str, Value]:
    """The settings by their dotted keys, lists as text; absolute paths are nobody's business and are left out."""
    settings = flat(config.model_dump(mode="json"))
    return {
        key: value if isinstance(value, bool | int | float | str) else json.dumps(value, ensure_ascii=False)
        for key, value in settings.items()
        if not (isinstance(value, str) and _is_absolute(value))
    }


def _is_absolute(text: str) -> bool:
    return PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute()


def _read(run: RunFolder) -> dict[str, dict[str, Any]]:
    """Of each logger, its identity and the last epoch that it knows."""
    if not run.loggers_file.is_file():
        return {}
    try:
        known = json.loads(read_text(run.loggers_file))
        return {name: {"identity": entry["identity"], "epoch": int(entry["epoch"])} for name, entry in known.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{run.loggers_file} is damaged: remove it, and the loggers are told of the run from its beginning"
        ) from error

"""TensorBoard, MLflow and Weights & Biases behind one face, by Lightning's own loggers; nobody else knows them."""

import csv
import html
import io
import os
import re
import shutil
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from secrets import token_hex
from typing import Any, Literal

from pytorch_lightning.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger

from dlka_med.data.raster import read_raster
from dlka_med.errors import InputError
from dlka_med.run_folder import RunFolder

End = Literal["success", "failed", "interrupted"]
Value = bool | int | float | str

QUIET = {
    "tensorboard": {},
    "mlflow": {"MLFLOW_DISABLE_TELEMETRY": "true"},
    "wandb": {"WANDB_ERROR_REPORTING": "false"},
}
"""What keeps each package from telling its makers about its use, unless the user has said otherwise."""

LONGEST = 150  # characters of a name in MLflow, which allows 250 with all that is put before them


class Tool(ABC):
    """Where a run is recorded beside its own folder.

    Args:
        experiment: what runs that are compared with each other share.
        identity: of an earlier part of the run, to go on in the same place; None: a new one.

    Attributes:
        identity: what goes on in the same place.
        place: where it is, for the log.
    """

    identity: str | None = None
    place: str

    @abstractmethod
    def __init__(self, run: RunFolder, experiment: str, identity: str | None) -> None: ...

    @abstractmethod
    def begin(self, hyperparameters: Mapping[str, Value], columns: Sequence[str]) -> None:
        """Record what the run was asked for; `columns`: scalars that are to come."""

    @abstractmethod
    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Record values by their names; what stands before a slash is a group."""

    @abstractmethod
    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[str | float | None]], step: int) -> None:
        """Record a table."""

    @abstractmethod
    def picture(self, name: str, file: Path, step: int) -> None:
        """Record a PNG as the state of the picture `name` at this step."""

    @abstractmethod
    def end(self, how: End) -> None:
        """Write all that is left."""


class TensorBoard(Tool):
    """Event files in `RUN/tensorboard`."""

    def __init__(self, run: RunFolder, experiment: str, identity: str | None) -> None:
        self.logger = TensorBoardLogger(run.path, name="tensorboard", version="", default_hp_metric=False)
        self.place = f"tensorboard --logdir {run.path / 'tensorboard'}"

    def begin(self, hyperparameters: Mapping[str, Value], columns: Sequence[str]) -> None:
        from torch.utils.tensorboard.summary import hparams

        self.logger.log_hyperparams(dict(hyperparameters))  # Lightning's file; its page wants a made-up metric.
        for summary in hparams(dict(hyperparameters), dict.fromkeys(columns)):
            self.logger.experiment._get_file_writer().add_summary(summary)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.logger.log_metrics(values, step)
        self.logger.experiment.flush()

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[str | float | None]], step: int) -> None:
        lines = [columns, ["---"] * len(columns), *([_cell(value) for value in row] for row in rows)]
        text = "\n".join(f"| {' | '.join(map(_escaped, line))} |" for line in lines)
        self.logger.experiment.add_text(name, text, step)

    def picture(self, name: str, file: Path, step: int) -> None:
        pixels = read_raster(file, ("red", "green", "blue"))
        self.logger.experiment.add_image(name, pixels, step, dataformats="CHW")
        self.logger.experiment.flush()

    def end(self, how: End) -> None:
        self.logger.finalize(how)


class MLflow(Tool):
    """A local store `RUN/mlruns`, or what `MLFLOW_TRACKING_URI` names."""

    def __init__(self, run: RunFolder, experiment: str, identity: str | None) -> None:
        asked = os.environ.get("MLFLOW_TRACKING_URI")
        local = (run.path.absolute() / "mlruns").as_uri()
        if not asked:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            experiment, identity = _at_home(local, experiment, identity)
        tags = {"mlflow.source.name": "dlka_med", "mlflow.source.type": "LOCAL"}  # not the command with its paths
        self.logger = MLFlowLogger(
            experiment, run_name=run.path.name, tracking_uri=asked or local, run_id=identity, tags=tags
        )
        try:
            self.identity = self.logger.run_id
        finally:  # MLflow notes the store in the environment, where the next run would take it for the user's wish
            os.environ.pop("MLFLOW_TRACKING_URI", None)
            if asked is not None:
                os.environ["MLFLOW_TRACKING_URI"] = asked
        self.logger.experiment.update_run(self.identity, status="RUNNING")
        self.place = f"{asked or run.path / 'mlruns'}, run {self.identity}"

    def begin(self, hyperparameters: Mapping[str, Value], columns: Sequence[str]) -> None:
        self.logger.log_hyperparams({plain(key): value for key, value in hyperparameters.items()})

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.logger.log_metrics({_plain_tag(tag): value for tag, value in values.items()}, step)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[str | float | None]], step: int) -> None:
        text = io.StringIO(newline="")
        csv.writer(text).writerows([columns, *rows])
        self.logger.experiment.log_text(self.identity, text.getvalue(), f"{plain(name)}/step_{step:07d}.csv")

    def picture(self, name: str, file: Path, step: int) -> None:
        named = shutil.copyfile(file, file.with_name(f"step_{step:07d}.png"))  # others are told of the file, too
        self.logger.experiment.log_artifact(self.identity, str(named), _plain_tag(name))

    def end(self, how: End) -> None:
        self.logger.finalize("KILLED" if how == "interrupted" else how)


class WeightsAndBiases(Tool):
    """Files in `RUN/wandb`, which `wandb sync` sends; sent at once only if `WANDB_MODE` says online."""

    def __init__(self, run: RunFolder, experiment: str, identity: str | None) -> None:
        from wandb import Settings

        mode = os.environ.get("WANDB_MODE", "offline")
        self.identity = identity or token_hex(4)
        # No machine, no program with its arguments, no screen with its paths: of the run what is recorded, and no more.
        settings = Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        )
        self.logger = WandbLogger(
            name=run.path.name,
            save_dir=run.path,
            id=self.identity,
            project=os.environ.get("WANDB_PROJECT") or re.sub(r"[/\\#?%:]", "_", experiment)[:128],
            mode=mode,
            settings=settings,
        )
        made = self.logger.experiment
        self.place = f"{run.path / 'wandb'}, sent only by wandb sync" if mode == "offline" else str(made.url)

    def begin(self, hyperparameters: Mapping[str, Value], columns: Sequence[str]) -> None:
        self.logger.log_hyperparams(dict(hyperparameters))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.logger.log_metrics(values, step)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[str | float | None]], step: int) -> None:
        self.logger.log_table(name, list(columns), [list(row) for row in rows], step=step)

    def picture(self, name: str, file: Path, step: int) -> None:
        self.logger.log_image(name, [str(file)], step)

    def end(self, how: End) -> None:
        self.logger.finalize(how)
        self.logger.experiment.finish(exit_code=0 if how == "success" else 1)


TOOLS: dict[str, type[Tool]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WeightsAndBiases}


def refuse_missing(names: Sequence[str]) -> None:
    """Raise `InputError` with the extra to install unless the packages of these loggers can be imported."""
    for name in names:
        for variable, value in QUIET[name].items():
            os.environ.setdefault(variable, value)
        try:
            import_module(name)
        except ImportError as error:
            if (error.name or "").partition(".")[0] != name:
                raise
            raise InputError(
                f'training.loggers names {name}, which is not installed: pip install "dlka_med[{name}]", or leave it '
                "out"
            ) from error


def open_tool(name: str, run: RunFolder, experiment: str, identity: str | None) -> Tool:
    """A logger by its name in the config.

    Raises:
        InputError: where it is to write cannot be used or reached.
    """
    refuse_missing([name])
    try:
        return TOOLS[name](run, experiment, identity)
    except Exception as error:  # each package, and each server, fails in its own words
        raise InputError(
            f"training.loggers: {name} cannot record this run ({error}): mend that, or leave {name} out"
        ) from error


def plain(name: str) -> str:
    """The name as MLflow takes it; names that differ stay different."""
    if re.fullmatch(rf"[A-Za-z0-9_-][A-Za-z0-9_. -]{{0,{LONGEST - 1}}}", name):
        return name
    kept = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:LONGEST]
    return f"{kept} {zlib.crc32(name.encode()):08x}"


def _plain_tag(tag: str) -> str:
    group, slash, rest = tag.partition("/")
    return f"{plain(group)}/{plain(rest)}" if slash else plain(tag)


def _cell(value: str | float | None) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:.4f}"


def _escaped(cell: str) -> str:
    """The text as it is in Markdown, within a cell of a table."""
    return re.sub(r"([|\\*_`\[])", r"\\\1", html.escape(" ".join(cell.split()), quote=False))


def _at_home(store: str, experiment: str, identity: str | None) -> tuple[str, str | None]:
    """The first experiment that keeps its pictures in this store, and the run if it is one of it.

    A store that was copied or moved with its run still names the old folder, where nothing may be written.
    """
    from mlflow.tracking import MlflowClient

    client, name, number = MlflowClient(store), experiment, 1
    while (found := client.get_experiment_by_name(name)) and not _lies_in(found.artifact_location, store):
        number += 1
        name = f"{experiment} {number}"
    if identity is not None and (found is None or client.get_run(identity).info.experiment_id != found.experiment_id):
        identity = None
    return name, identity


def _lies_in(location: Any, store: str) -> bool:
    return str(location).startswith(f"{store}/")

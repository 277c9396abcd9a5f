"""The layout of a run: one folder that holds all that later verbs need."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from dlka_med.config.loading import load_config, save_config
from dlka_med.config.schema import RunConfig
from dlka_med.errors import InputError
from dlka_med.files import refuse_existing, whole_file, whole_folder
from dlka_med.paths import could_hold_files, did_you_mean, shown
from dlka_med.text_files import read_text

# A mistyped run is told before torch is imported, which takes seconds.
if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class RunFolder:
    """A folder made by training.

    config.yaml          the complete config, with the dataset's channels and labels resolved
    split.json           ids of the train, validation (the most telling first) and test cases
    weights.safetensors  the best weights so far; the latest where nothing validates
    checkpoint.ckpt      the latest state, to resume from
    trained_on.json      the cases that trained the weights, those of earlier runs that it started from included
    fast.json            what the fast way of predicting costs, if that was measured
    machine.json         on which machines and with which versions it was trained
    reasons.json         what the config that it was started from said of its values, if it did
    metrics.csv, curve.png, log.txt
    loggers.json         what the loggers of its config know of it; tensorboard, mlruns, wandb: their folders
    stop                 made by somebody while it trains, it ends the training with a validation
    calibration.json     the temperature of its probabilities, if they were calibrated, and reliability.png
    postprocessing.json  what is done to its label maps, if that was learned
    """

    path: Path

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def split_file(self) -> Path:
        return self.path / "split.json"

    @property
    def weights_file(self) -> Path:
        return self.path / "weights.safetensors"

    @property
    def checkpoint_file(self) -> Path:
        return self.path / "checkpoint.ckpt"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def curve_file(self) -> Path:
        return self.path / "curve.png"

    @property
    def log_file(self) -> Path:
        return self.path / "log.txt"

    @property
    def loggers_file(self) -> Path:
        return self.path / "loggers.json"

    @property
    def stop_file(self) -> Path:
        return self.path / "stop"

    @property
    def calibration_file(self) -> Path:
        return self.path / "calibration.json"

    @property
    def postprocessing_file(self) -> Path:
        return self.path / "postprocessing.json"

    @property
    def machine_file(self) -> Path:
        return self.path / "machine.json"

    @property
    def reasons_file(self) -> Path:
        return self.path / "reasons.json"

    @classmethod
    def create(cls, path: str | Path, config: RunConfig, split: Mapping[str, Sequence[str]]) -> RunFolder:
        """Make the folder with its config and split, whole or not at all.

        A folder of a run that has learned nothing yet is filled anew.

        Args:
            path: must not exist, or be an empty folder or a run that has not started.
            config: with `dataset.channels` and `dataset.labels` resolved.
            split: case ids under the keys train, validation and test.

        Raises:
            InputError: the folder is not empty or cannot be written to.
            ValueError: channels or labels are None, or the split has other keys.
        """
        if config.dataset.channels is None or config.dataset.labels is None:
            raise ValueError("a run needs the names of its channels and labels: resolve them from the dataset first")
        if set(split) != set(PARTS):
            raise ValueError(f"a split has the keys {', '.join(PARTS)}, got {', '.join(split)}")
        text = json.dumps({part: list(split[part]) for part in PARTS}, indent=2) + "\n"
        run = cls(Path(path))
        if is_run(run.path) and not run.started:
            with whole_file(run.split_file) as file:
                file.write_text(text, encoding="utf-8")
            save_config(config, run.config_file)
            run.reasons_file.unlink(missing_ok=True)
            return run
        with whole_folder(path) as folder:
            save_config(config, folder / "config.yaml")
            (folder / "split.json").write_text(text, encoding="utf-8")
        return run

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Open an existing run after a look at what it holds.

        Raises:
            InputError: there is no such folder, or it is no complete run.
        """
        path = Path(path)
        if os.path.isfile(path):
            path_hint = f"; its folder {path.parent} may be meant" if is_run(path.parent) else ""
            raise InputError(f"{path} is a file, but a run is a folder made by training{path_hint}")
        if not os.path.isdir(path):
            raise InputError(f"there is no run folder {shown(path)}{did_you_mean(path, is_run)}")
        missing = [name for name in ("config.yaml", "split.json") if not (path / name).is_file()]
        if missing:
            inside = sorted(child.name for child in path.iterdir() if is_run(child))
            hint = f"; it holds runs: {', '.join(inside[:5])}" if inside else ""
            raise InputError(f"{path} is not a run folder: {' and '.join(missing)} missing{hint}")
        run = cls(path)
        for key in ("channels", "labels"):
            if getattr(run.config.dataset, key) is None:
                raise InputError(f"{run.config_file}: dataset.{key} is null, but a run needs its names")
        return run

    @property
    def started(self) -> bool:
        """Whether anything was learned that could be lost."""
        return self.checkpoint_file.exists() or self.weights_file.exists()

    def refuse_started(self) -> None:
        """Raise `InputError` if a new run cannot begin here; one that has learned nothing may be begun anew."""
        could_hold_files(self.path)
        if self.started:
            raise InputError(f"{self.path} holds a run already: add --resume to go on with it, or name another folder")
        if not self.config_file.is_file():
            refuse_existing(self.path)

    def refuse_untrained(self) -> None:
        """Raise `InputError` if there are no weights yet."""
        if not self.weights_file.is_file():
            raise InputError(
                f"{self.weights_file} is missing: the training of this run has not validated yet; resume it"
            )

    @cached_property
    def config(self) -> RunConfig:
        """The run's complete config."""
        config = load_config(self.config_file)
        text = read_text(self.config_file)
        return config if re.search(r"^\s*cache_gib:", text, re.MULTILINE) else _as_trained(config)

    @cached_property
    def split(self) -> dict[str, tuple[str, ...]]:
        """Case ids under train, validation and test.

        Raises:
            InputError: `split.json` is damaged.
        """
        expected = f"expected {{{', '.join(PARTS)}}}, each a list of case ids"
        try:
            content = json.loads(read_text(self.split_file))
        except ValueError as error:
            raise InputError(f"cannot read {self.split_file} ({error}): {expected}") from error
        if not isinstance(content, dict) or set(content) != set(PARTS):
            raise InputError(f"{self.split_file}: {expected}")
        for part, ids in content.items():
            if not isinstance(ids, list) or not all(isinstance(case, str) for case in ids):
                raise InputError(f"{self.split_file}: {part}: {expected}")
        return {part: tuple(content[part]) for part in PARTS}

    def save_weights(self, state_dict: Mapping[str, Tensor], metadata: Mapping[str, object] | None = None) -> None:
        """Replace `weights.safetensors`; the metadata's values are stored as text."""
        from safetensors.torch import save_file

        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state_dict.items()}
        texts = {key: str(value) for key, value in (metadata or {}).items()}
        with whole_file(self.weights_file) as temporary:
            save_file(tensors, temporary, {"format": "pt", **texts})

    def load_weights(self) -> dict[str, Tensor]:
        """The best weights, on the CPU.

        Raises:
            InputError: there are none yet, or the file is damaged.
        """
        return self._read_weights()[0]

    @property
    def weights_metadata(self) -> dict[str, str]:
        """What `save_weights` was told about the weights."""
        return self._read_weights()[1]

    def load_network(self, device: str | torch.device = "cpu") -> nn.Module:
        """The run's network with its best weights, in eval mode.

        Raises:
            InputError: the weights are missing, damaged or those of another network.
        """
        weights = self.load_weights()
        network = build_run_network(self.config, pretrained=False)
        check_fit(self.weights_file, network.state_dict(), weights)
        network.load_state_dict(weights, strict=True)
        return network.to(device).eval()

    def _read_weights(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        from safetensors import SafetensorError, safe_open

        self.refuse_untrained()
        file = self.weights_file
        try:
            with safe_open(file, framework="pt") as content:
                tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
                metadata = dict(content.metadata() or {})
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file} cannot be read ({error}): copy it again, or train again") from error
        metadata.pop("format", None)
        return tensors, metadata


def build_run_network(config: RunConfig, *, pretrained: bool = True) -> nn.Module:
    """The network of a config whose channels and labels are resolved, with fresh weights.

    Args:
        pretrained: whether an encoder gets the weights that the config names; False where others replace them.

    Raises:
        InputError: the network's arguments contradict each other, or pretrained weights cannot be had.
    """
    from dlka_med.networks import build_network

    arguments = config.network.model_dump()
    if not pretrained and "pretrained" in arguments:
        arguments["pretrained"] = False
    try:
        return build_network(
            arguments.pop("name"),
            in_channels=len(config.dataset.channels or ()),
            out_channels=config.dataset.scheme.outputs,
            img_size=config.training.patch_size,
            **arguments,
        )
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        raise InputError(f"the network of the run {config.name} cannot be built: {error}") from error


def check_fit(file: Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Raise `InputError` with the first differing tensors unless `file` holds those of the config's network."""
    differences = [
        f"{name}: {_shape(found, name)} in the file, {_shape(expected, name)} in the network"
        for name in [*expected, *(name for name in found if name not in expected)]
        if _shape(expected, name) != _shape(found, name)
    ]
    if differences:
        raise InputError(
            f"{file} holds the weights of another network than config.yaml describes; "
            f"{len(differences)} tensors differ, the first: {'; '.join(differences[:3])}"
        )


def _shape(tensors: Mapping[str, Tensor], name: str) -> str:
    return str(tuple(tensors[name].shape)) if name in tensors else "absent"


def is_run(path: Path) -> bool:
    """Whether a folder holds a run."""
    return path.is_dir() and all((path / name).is_file() for name in ("config.yaml", "split.json"))


def _as_trained(config: RunConfig) -> RunConfig:
    """The config of a run from before `cache_gib`: zscore left out voxels of value 0, and nothing limited offsets."""
    preprocessing, network, training = config.preprocessing, config.network, config.training
    if preprocessing.intensity != "auto":
        kinds = [
            entry.model_copy(update={"kind": "zscore_nonzero"}) if entry.kind == "zscore" else entry
            for entry in preprocessing.intensity
        ]
        preprocessing = preprocessing.model_copy(update={"intensity": tuple(kinds)})
    if "offset_limit" in type(network).model_fields:
        network = network.model_copy(update={"offset_limit": None})
    optimizer = training.optimizer.model_copy(update={"offset_rate": 1.0})
    training = training.model_copy(update={"optimizer": optimizer})
    return config.model_copy(update={"preprocessing": preprocessing, "network": network, "training": training})

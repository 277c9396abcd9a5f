"""A run, a config or a network by name, as one complete config; nothing slow is imported for it."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlka_med.config.loading import NETWORKS, checked_config, load_config
from dlka_med.config.schema import RunConfig
from dlka_med.data.cases import Dataset, dataset_of, with_names
from dlka_med.errors import InputError
from dlka_med.paths import did_you_mean, shown
from dlka_med.run_folder import RunFolder

WINDOW = {2: (224, 224), 3: (64, 64, 64)}
CHANNELS, CLASSES = 1, 2


@dataclass(frozen=True)
class Subject:
    """A network to tell about.

    Args:
        kind: run, config or network.
        name: of the run, of the config's file, or of the network.
        config: complete, with the names of channels and labels.
        run: its folder, if there are trained weights.
        dataset: what the config names, if it is there.
    """

    kind: str
    name: str
    config: RunConfig
    run: RunFolder | None = None
    dataset: Dataset | None = None

    @property
    def channels(self) -> int:
        """Of the image."""
        return len(self.config.dataset.channels or ())


def find_subject(
    what: str | Path,
    *,
    patch: Sequence[int] | None = None,
    channels: int | None = None,
    classes: int | None = None,
) -> Subject:
    """What `what` names: a network of `NETWORKS`, a run folder or a YAML file.

    Args:
        patch: size of the window; None: that of the config, of a network alone 224x224 or 64x64x64.
        channels, classes: of the image and of the output, background included, where nothing else tells them; of a
            network alone 1 and 2.

    Raises:
        InputError: there is no such thing, or it does not fit together.
    """
    if str(what) in NETWORKS:
        dataset = _nameless(channels or CHANNELS, classes or CLASSES) | {"root": "-"}
        record = NETWORKS[str(what)]
        dims = len(patch) if patch else getattr(record, "spatial_dims", 3)
        arguments: dict[str, Any] = {"name": str(what)}
        if "spatial_dims" in record.model_fields:
            arguments["spatial_dims"] = dims
        training = {"patch_size": list(patch or WINDOW[dims])}
        data = {"name": str(what), "dataset": dataset, "network": arguments, "training": training}
        return Subject("network", str(what), checked_config(data, str(what)))
    path = Path(what)
    if not os.path.exists(path):
        near = difflib.get_close_matches(str(what), NETWORKS, n=1)
        hint = f"; did you mean {near[0]}?" if near else did_you_mean(path)
        known = f" (networks are {', '.join(NETWORKS)})"
        raise InputError(f"there is no run, config or network {shown(path)}{hint or known}")
    run = RunFolder.open(path) if path.is_dir() else None
    config = load_config(path) if run is None else run.config
    if patch:
        data = config.model_dump()
        data["training"]["patch_size"] = list(patch)
        config = checked_config(data, f"{path} with this --patch")
    dataset = _dataset(config)
    names = config.dataset if dataset is None else with_names(config.dataset, dataset)
    names = _named(path, names, channels, classes)
    trained = run if run is not None and run.weights_file.is_file() else None
    config = config.model_copy(update={"dataset": names})
    return Subject("config" if run is None else "run", str(path), config, trained, dataset)


def _dataset(config: RunConfig) -> Dataset | None:
    """What the config names; None: it is not here, which is no mistake of whoever asks about the network."""
    try:
        return dataset_of(config.dataset, grouped=False) if os.path.isdir(config.dataset.root) else None
    except InputError:
        if config.dataset.channels is None or config.dataset.labels is None:
            raise
        return None


def _named(path: Path, dataset: Any, channels: int | None, classes: int | None) -> Any:
    """The section with channels and labels; numbers that were given stand in for what is not known."""
    changes, lacking = {}, []
    for key, option, given in (("channels", "--channels", channels), ("labels", "--classes", classes)):
        known = getattr(dataset, key)
        if known is None and given is None:
            lacking.append((key, option))
        elif known is None:
            changes[key] = _nameless(given, given)[key]
        elif given is not None:
            raise InputError(f"{path} knows its {key}, {', '.join(known)}: leave {option} away")
    if lacking:
        keys, options = (" and ".join(words) for words in zip(*lacking, strict=True))
        raise InputError(
            f"{path}: dataset.{keys} are null, and there is no dataset {shown(dataset.root)} to tell: give {options} "
            "N, or set dataset.root"
        )
    return dataset.model_copy(update=changes)


def _nameless(channels: int, classes: int) -> dict[str, Any]:
    labels = {"background": 0} | {f"label {value}": value for value in range(1, classes)}
    return {"channels": tuple(f"channel {index}" for index in range(channels)), "labels": labels}

"""Which config a resumed run goes on with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlka_med.config.schema import RunConfig
from dlka_med.errors import InputError
from dlka_med.run_folder import RunFolder

CHANGEABLE = {
    "dataset.root",
    "dataset.segments",
    "dataset.groups",
    "dataset.cache",
    "dataset.cache_gib",
    "training.epochs",
    "training.minutes",
    "training.validate_every",
    "training.validation_cases",
    "training.accelerator",
    "training.workers",
    "training.loggers",
    "inference.batch_size",
}
"""Settings that a resumed run may change: they decide where, how long and how it is shown, not what was learned."""

LENGTH = {"training.epochs", "training.minutes"}
"""Those of them that decide how long it learns, which only a run that is extended may change."""

LEFT_OPEN = {
    "dataset.channels",
    "dataset.labels",
    "dataset.regions_class_order",
    "training.augmentation.flip_axes",
}
"""Settings whose null means: as follows from the dataset."""

BY_LABEL = {"dataset.labels", "dataset.segments"}
"""Settings that are named by labels, each of them one setting."""


def resumed_config(asked: RunConfig, run: RunFolder, *, extend: bool = False) -> RunConfig:
    """The run's own config with what may be changed taken from `asked`.

    What `asked` leaves open (null channels, labels and flip axes, intensity auto, CT statistics) is as the run
    resolved it.

    Args:
        extend: whether it may train for longer, or shorter, than the run was made for.

    Raises:
        InputError: another difference, each named with both values.
    """
    changeable = CHANGEABLE if extend else CHANGEABLE - LENGTH
    old, new = (flat(with_absolute_paths(config).model_dump()) for config in (run.config, asked))
    differences = []
    for key in old.keys() | new.keys():
        before, after = old.get(key), new.get(key)
        if before == after or key in changeable:
            continue
        if (after is None and key in LEFT_OPEN) or (key == "preprocessing.intensity" and _left_open(before, after)):
            continue
        differences.append(f"{key}: {after!r} asked, {before!r} in the run")
    if differences:
        longer = any(difference.startswith(tuple(LENGTH)) for difference in differences)
        hint = "; dlka train RUN --extend N goes on for longer" if longer else ""
        raise InputError(
            f"cannot resume {run.path} with another config, train into another folder instead: "
            + "; ".join(sorted(differences))
            + hint
        )
    merged = run.config.model_dump()
    for key in CHANGEABLE:
        section, name = key.split(".")
        merged[section][name] = new[key]
    return RunConfig.model_validate(merged)


def refuse_different(runs: Mapping[int, RunFolder], *, same_length: bool) -> None:
    """Raise `InputError` unless the runs of these folds have one config but for what each fold decides itself.

    Args:
        same_length: whether they must have trained for equal epochs or minutes.
    """
    apart = CHANGEABLE - (LENGTH if same_length else set()) | {"dataset.fold", "dataset.folds"}
    first, *others = sorted(runs)
    known = flat(_with_kinds(runs[first].config))
    for fold in others:
        found = flat(_with_kinds(runs[fold].config))
        for key in sorted((known.keys() | found.keys()) - apart):
            if known.get(key) != found.get(key):
                raise InputError(
                    f"{runs[first].path.parent} holds folds that were trained with different configs: {key} is "
                    f"{known.get(key)!r} in {runs[first].path.name} and {found.get(key)!r} in {runs[fold].path.name}; "
                    "move away those of one config, and the same command trains them with the other"
                )


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The config with absolute files and folders, so that the run resumes from anywhere."""
    places = {"dataset": ("root", "groups", "folds", "cache"), "training": ("start_from",), "network": ("pretrained",)}
    sections = {}
    for section, keys in places.items():
        record = getattr(config, section)
        named = {key: place for key in keys if isinstance(place := getattr(record, key, None), str)}
        sections[section] = record.model_copy(update={key: str(Path(p).absolute()) for key, p in named.items()})
    return config.model_copy(update=sections)


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings of a config's sections by their dotted keys."""
    settings = {}
    for key, value in tree.items():
        if isinstance(value, dict) and prefix + key not in BY_LABEL:
            settings |= flat(value, f"{prefix}{key}.")
        else:
            settings[prefix + key] = value
    return settings


def _with_kinds(config: RunConfig) -> dict[str, Any]:
    """The config with the kinds of intensity alone: CT statistics are those of the cases that train in a fold."""
    tree = config.model_dump()
    if config.preprocessing.intensity != "auto":
        tree["preprocessing"]["intensity"] = [entry.kind for entry in config.preprocessing.intensity]
    return tree


def _left_open(resolved: Any, asked: Any) -> bool:
    if asked == "auto":
        return True
    return len(asked) == len(resolved) and all(
        all(value is None or value == entry[key] for key, value in wish.items())
        for wish, entry in zip(asked, resolved, strict=True)
    )

"""dataset.json: the names of the channels, the names and values of the labels."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dlka_med.errors import InputError

MAX_LABELS = 256


def read_description(path: Path) -> dict[str, Any]:
    """The content of `dataset.json`; nothing where there is no such file.

    Raises:
        InputError: it cannot be read or holds no JSON object.
    """
    if not path.is_file():
        return {}
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is broken at line {error.lineno}, column {error.colno}: {error.msg}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not isinstance(facts, dict):
        raise InputError(f"{path} must hold a JSON object, not a {type(facts).__name__}")
    return facts


def channel_names(path: Path, facts: dict[str, Any], chosen: Sequence[str] | None) -> tuple[str, ...]:
    """Names of the channels in order; `chosen` replaces those of the file.

    Raises:
        InputError: nobody names them, the numbers have gaps, or `chosen` has another length.
    """
    declared = facts.get("channel_names", facts.get("modality"))
    if not facts:
        if not chosen:
            raise InputError(f"there is no {path}: name the channels in the config, like dataset.channels: [R, G, B]")
        return tuple(chosen)
    if not isinstance(declared, dict) or not declared or not all(str(key).isdigit() for key in declared):
        raise InputError(f'{path} must name the channels, like "channel_names": {{"0": "MRI"}}, got {declared!r}')
    if sorted(map(int, declared)) != list(range(len(declared))):
        raise InputError(f"{path} must number the channels from 0 without gaps, got {sorted(declared)}")
    names = tuple(str(declared[key]) for key in sorted(declared, key=int))
    if chosen is None:
        return names
    if len(chosen) != len(names):
        raise InputError(f"{path} declares {len(names)} channels {list(names)}, but the config names {list(chosen)}")
    return tuple(chosen)


def label_values(path: Path, facts: dict[str, Any], chosen: Mapping[str, int] | None) -> dict[str, int]:
    """Values by name in ascending order; `chosen` replaces those of the file.

    Raises:
        InputError: nobody declares them, or values repeat, are no whole numbers or lack the background.
    """
    if chosen is None and not facts:
        raise InputError(
            f"there is no {path}: declare the labels in the config, like dataset.labels: {{background: 0, nucleus: 1}}"
        )
    declared, where = (facts.get("labels"), str(path)) if chosen is None else (chosen, "dataset.labels")
    if not isinstance(declared, Mapping) or not declared:
        raise InputError(f'{where} must declare the labels, like "labels": {{"background": 0, "tumour": 1}}')
    if chosen is None and all(str(key).isdigit() for key in declared):
        declared = {str(name): int(value) for value, name in declared.items()}
    for name, value in declared.items():
        if isinstance(value, list):
            raise InputError(f"{where}: the label {name!r} is a region {value}; give one value per label instead")
        if not isinstance(value, int) or value < 0:
            raise InputError(f"{where}: the label {name!r} must have a whole number from 0 on, got {value!r}")
        if name == "ignore":
            raise InputError(f"{where}: the label 'ignore' is not supported; remove it and its voxels")
    values = sorted(declared.values())
    if values[0] != 0 or len(set(values)) != len(values) or len(values) < 2:
        raise InputError(
            f"{where}: labels need distinct values, one of them 0 for the background, got {dict(declared)}"
        )
    if len(values) > MAX_LABELS:
        raise InputError(f"{where} declares {len(values)} labels; at most {MAX_LABELS} are supported")
    return dict(sorted(declared.items(), key=lambda item: item[1]))

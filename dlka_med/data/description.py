"""dataset.json: the names of the channels, the names and values of the labels."""

import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlka_med.config.dataset import Segment, declared_segments
from dlka_med.config.labels import IGNORE, Declared, LabelScheme, declared_labels
from dlka_med.errors import InputError
from dlka_med.text_files import read_text

log = logging.getLogger("dlka_med")


def read_description(path: Path) -> dict[str, Any]:
    """The content of `dataset.json`; nothing where there is no such file.

    Raises:
        InputError: it cannot be read or holds no JSON object.
    """
    if not os.path.exists(path):
        return {}
    text = read_text(path)
    try:
        facts = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is broken at line {error.lineno}, column {error.colno}: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not isinstance(facts, dict):
        raise InputError(f"{path} must hold a JSON object, not a {type(facts).__name__}")
    return facts


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if twins := [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]:
        raise ValueError(f"the key {twins[0]!r} stands twice in one object; keep one of them")
    return dict(pairs)


def channel_names(path: Path, facts: dict[str, Any], chosen: Sequence[str] | None) -> tuple[str, ...]:
    """Names of the channels in order; `chosen` replaces those of the file.

    Raises:
        InputError: nobody names them, the numbers have gaps, or `chosen` has another length.
    """
    declared = facts.get("channel_names", facts.get("modality"))
    known = declared if isinstance(declared, dict) else {}
    if chosen is not None and (chosen or known):
        if known and len(chosen) != len(known):
            names = list(known.values())
            raise InputError(f"{path} declares {len(names)} channels {names}, but the config names {list(chosen)}")
        return tuple(chosen)
    if not facts:
        example = '{"channel_names": {"0": "R", "1": "G", "2": "B"}, "labels": {"background": 0, "cell": 1}}'
        raise InputError(
            f"there is no {path}: write one, like {example}, or name the channels in the config, like "
            "dataset.channels: [R, G, B]"
        )
    if not known or not all(key.isdecimal() for key in known):
        raise InputError(
            f'{path} must name the channels, like "channel_names": {{"0": "MRI"}}, got {declared!r}: '
            "mend it or set dataset.channels in the config"
        )
    if sorted(map(int, known)) != list(range(len(known))):
        raise InputError(f"{path} must number the channels from 0 without gaps, got {sorted(known)}")
    for key, name in known.items():
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"{path}: the name of channel {key} must be text, got {name!r}")
    return tuple(known[key] for key in sorted(known, key=int))


def channel_order(path: Path, facts: dict[str, Any], wanted: Sequence[str], *, renamed: bool) -> tuple[int, ...] | None:
    """Where each wanted channel stands among those that the file declares; None: in the same place.

    Names are compared without regard to case and blanks. Where the file names none, they are taken to be as wanted.

    Args:
        renamed: whether other names may be the same channels.

    Raises:
        InputError: the file declares other channels, and `renamed` is False.
    """
    try:
        declared = channel_names(path, facts, None)
    except InputError:
        return None
    ours, theirs = ([" ".join(name.split()).casefold() for name in names] for names in (wanted, declared))
    if ours == theirs:
        return None
    if sorted(ours) == sorted(theirs) and len(set(ours)) == len(ours):
        log.info("%s has the channels %s: they are read in the order %s", path, list(declared), list(wanted))
        return tuple(theirs.index(name) for name in ours)
    if not renamed:
        raise InputError(
            f"{path} declares the channels {list(declared)}, but {list(wanted)} are needed, as the run was trained: "
            "give such images; if only the names differ, change them in that file, or let predict read a folder of the "
            "images that lies in no dataset, where nobody names them"
        )
    log.info("%s calls the channels %s; the config calls them %s", path, list(declared), list(wanted))
    return None


def in_stored_order(names: Sequence[str], order: Sequence[int] | None) -> tuple[str, ...]:
    """The wanted channels as the files number them; `order` as `channel_order` gives it."""
    return tuple(names) if order is None else tuple(names[order.index(place)] for place in range(len(names)))


def labels_and_order(
    path: Path, facts: dict[str, Any], chosen: Declared | None, chosen_order: Sequence[int] | None = None
) -> tuple[dict[str, int | tuple[int, ...]], tuple[int, ...] | None]:
    """Labels by name, see `declared_labels`, and what regions paint; `chosen` labels replace both of the file.

    Raises:
        InputError: nobody declares them, they are not as in `declared_labels`, lack the background, or the order does
            not fit the regions.
    """
    if chosen is None and not facts:
        raise InputError(
            f"there is no {path}: declare the labels in the config, like dataset.labels: {{background: 0, nucleus: 1}}"
        )
    declared, where = (facts.get("labels"), str(path)) if chosen is None else (chosen, "dataset.labels")
    order = facts.get("regions_class_order") if chosen is None and chosen_order is None else chosen_order
    try:
        if not isinstance(order, list | tuple | None):
            raise ValueError(f"regions_class_order must be a list of values, got {order!r}")
        labels = declared_labels(declared)
        values = [value for value in labels.values() if value != 0]
        if len(values) == len(labels) or set(labels) <= {IGNORE, *(n for n, v in labels.items() if v == 0)}:
            raise ValueError(f"labels need two values or more, one of them 0 for the background, got {labels}")
        LabelScheme.of(labels, order)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    return labels, None if order is None else tuple(order)


def segments_of(path: Path, facts: dict[str, Any], labels: Declared) -> dict[str, Segment] | None:
    """Colours and codes of labels by name, from the key `segments` of the file, which it need not have.

    Raises:
        InputError: they are not as in `Segment`, or of a label that nobody declares.
    """
    if facts.get("segments") is None:
        return None
    try:
        return declared_segments(facts["segments"], labels)
    except ValueError as error:
        raise InputError(
            f'{path}: segments: {error}; expected {{"liver": {{"color": [221, 130, 101], "code": ["10200004", "SCT", '
            f'"Liver"]}}}}'
        ) from error

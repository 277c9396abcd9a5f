"""Whether the cases of an evaluation trained the run that predicted them, as the folder of predictions remembers it."""

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from dlka_med.errors import InputError
from dlka_med.prediction_folder import PARTS, PredictionFolder

UNRECORDED = "unrecorded"
SAID = {
    "validation": "validated the run",
    "test": "were its test cases",
    "new": "are new to it",
    "unknown": "are not known to be new to it",
    UNRECORDED: "have no record of who predicted them",
}

log = logging.getLogger("dlka_med")


def origins_of(predictions: Path, cases: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The cases by what they were to the run that made their label maps; empty where nothing is remembered.

    Of cases that trained it, and of a damaged record, a warning is logged.
    """
    folder = predictions if os.path.isdir(predictions) else predictions.parent
    try:
        made = PredictionFolder(folder).made
    except InputError as error:
        log.warning("%s", error)
        return {}
    parts = {case: (made[case].part if case in made else None) or UNRECORDED for case in cases}
    if set(parts.values()) <= {UNRECORDED}:
        return {}
    found = {part: tuple(sorted(case for case in parts if parts[case] == part)) for part in (*PARTS, UNRECORDED)}
    if trained := found["train"]:
        log.warning(
            "%d of %d evaluated cases trained the run that predicted them, such as %s in %s: these figures do not "
            "tell how good it is on new ones",
            len(trained),
            len(parts),
            trained[0],
            predictions,
        )
    return {part: named for part, named in found.items() if named or part == "train"}


def format_origins(origins: Mapping[str, tuple[str, ...]], cases: int) -> str:
    """One line: how many of the cases validated the run, and so on, and how many trained it."""
    said = [(len(origins[part]), words) for part, words in SAID.items() if origins.get(part)]
    said.append((len(origins["train"]), "trained it" if said else "trained the run"))
    (count, words), *others = said
    return "; ".join([f"{count} of {cases} cases {words}", *(f"{count} {words}" for count, words in others)])

"""What a mended copy says of itself: dataset.json and groups.csv, with the cases and labels that are there."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlka_med.checking.fixes import Fix, write_table
from dlka_med.checking.rules_dataset import patients
from dlka_med.checking.survey import Survey
from dlka_med.data.channel_files import Case
from dlka_med.data.formats import ENDINGS

WRITTEN = ("dataset.json", "groups.csv", "fixes.csv")


@dataclass(frozen=True)
class Kept:
    """A case of the copy, and where its files lie in it."""

    case: Case
    images: tuple[Path, ...]
    label: Path | None


def describe_copy(survey: Survey, told: set[str], folder: Path, kept: Sequence[Kept], values: set[int]) -> list[Fix]:
    """Write the description, the groups, and what else lay beside them.

    Args:
        told: codes of the findings.
        folder: the copy, relative to which `kept` has its paths.
        values: label values that the copy holds.
    """
    fixes, root = [], survey.dataset.root
    if survey.description:
        description, fixes = _corrected(survey, kept, values)
        (folder / "dataset.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    groups = {}
    if survey.grouped and "groups-wrong" not in told:
        groups = {one.case.id: one.case.group or "" for one in kept}
    if "ids-one-patient" in told:
        found = patients([one.case.id for one in kept])
        groups = {name: patient for patient, members in found.items() for name in members}
        fixes.append(Fix("", str(root / "groups.csv"), "ids-one-patient", "written, one group per patient"))
    if groups:
        write_table(folder / "groups.csv", [("case", "group"), *groups.items()])
    for file in root.iterdir():
        if file.is_file() and file.name not in WRITTEN and not file.name.lower().endswith(ENDINGS):
            shutil.copyfile(file, folder / file.name)
    return fixes


def _corrected(survey: Survey, kept: Sequence[Kept], values: set[int]) -> tuple[dict[str, Any], list[Fix]]:
    """The content of `dataset.json`, and what is other in it than it was."""
    described, fixes, source = dict(survey.description), [], str(survey.dataset.root / "dataset.json")
    trained = {case.id for case in survey.dataset.cases}
    training = [
        {"image": _listed(one.images[0]), "label": _listed(one.label)}
        for one in kept
        if one.case.id in trained and one.label is not None
    ]
    test = [_listed(one.images[0]) for one in kept if one.case.id not in trained]
    if isinstance(described.get("training"), list):
        described |= {"training": training} | ({"test": test} if "test" in described else {})
    for key, count in (("numTraining", len(training)), *([("numTest", len(test))] if test else [])):
        if key in described and described[key] != count:
            fixes.append(Fix("", source, "count-wrong", f"{key} corrected from {described[key]} to {count}"))
            described[key] = count
    labels = survey.dataset.labels
    absent = {name: value for name, value in labels.items() if value and value not in values}
    if absent and len(absent) < len(labels) - 1:
        described["labels"] = _without(described.get("labels", {}), absent)
        fixes += [Fix("", source, "label-absent", f"label {name!r} taken out: no case holds it") for name in absent]
    return described, fixes


def _listed(path: Path) -> str:
    return f"./{path.as_posix()}"


def _without(labels: Mapping[str, Any], absent: Mapping[str, int]) -> dict[str, Any]:
    """The labels of a description, names or values first, without the absent ones."""
    gone = {(str(name), str(value)) for name, value in absent.items()}
    return {key: entry for key, entry in labels.items() if not {(str(key), str(entry)), (str(entry), str(key))} & gone}

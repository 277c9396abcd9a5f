"""What a mended copy says of itself: dataset.json and groups.csv, with the cases and labels that are there."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dlka_med.checking.fixes import LEFT_OUT, Fix, write_table
from dlka_med.checking.places import Kept
from dlka_med.checking.rules_dataset import are_named, patients
from dlka_med.checking.rules_labels import holders
from dlka_med.checking.survey import Survey

WRITTEN = ("dataset.json", "groups.csv", "fixes.csv")


def describe_copy(survey: Survey, told: set[str], folder: Path, kept: Sequence[Kept], values: set[int]) -> list[Fix]:
    """Write the description and the groups.

    Args:
        told: codes of the findings.
        folder: the copy, relative to which `kept` has its paths.
        values: label values that the copy holds.
    """
    never, lost = _absent(survey, told, values)
    fixes, source = [], str(survey.dataset.root / "dataset.json")
    if survey.description:
        description, fixes = _corrected(survey, kept, never)
        (folder / "dataset.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    why = f"{LEFT_OUT}: no case of the copy holds the label {{!r}}, which stays declared"
    fixes += [Fix("", source, "label-absent", why.format(name)) for name in lost]
    groups = {}
    if survey.grouped and "groups-wrong" not in told:
        groups = {one.case.id: one.case.group or "" for one in kept}
    if "ids-one-patient" in told:
        found = patients([case.id for case in survey.cases])
        done = f"{LEFT_OUT}: the ids do not call anybody a patient, so nothing says which cases belong together"
        if are_named(found):
            patient_of = {name: patient for patient, members in found.items() for name in members}
            groups = {one.case.id: patient_of[one.case.id] for one in kept}
            done = "written, one group per patient"
        fixes.append(Fix("", str(survey.dataset.root / "groups.csv"), "ids-one-patient", done))
    if groups:
        write_table(folder / "groups.csv", [("case", "group"), *groups.items()])
    return fixes


def _absent(survey: Survey, told: set[str], values: set[int]) -> tuple[list[str], list[str]]:
    """Labels that the copy lacks: those that can be taken out as no case ever held them, and all others."""
    scheme = survey.scheme
    absent = [name for name, held in scheme.target_values.items() if not values & set(held)]
    held_by = holders(survey)
    never = [name for name in absent if "label-absent" in told and not held_by[name]]
    if scheme.has_regions or len(never) == len(scheme.names):
        never = []
    return never, [name for name in absent if name not in never]


def _corrected(survey: Survey, kept: Sequence[Kept], never: Sequence[str]) -> tuple[dict[str, Any], list[Fix]]:
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
    if never:
        absent = {name: value for name, (value,) in survey.scheme.target_values.items() if name in never}
        described["labels"] = _without(described.get("labels", {}), absent)
        fixes += [Fix("", source, "label-absent", f"label {name!r} taken out: no case holds it") for name in absent]
    return described, fixes


def _listed(path: Path) -> str:
    return f"./{path.as_posix()}"


def _without(labels: Mapping[str, Any], absent: Mapping[str, int]) -> dict[str, Any]:
    """The labels of a description, names or values first, without the absent ones."""
    gone = {(str(name), str(value)) for name, value in absent.items()}
    return {key: entry for key, entry in labels.items() if not {(str(key), str(entry)), (str(entry), str(key))} & gone}

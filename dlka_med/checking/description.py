"""What a mended copy says of itself: dataset.json and groups.csv, with the cases and labels that are there."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dlka_med.checking.fixes import LEFT_OUT, Fix, write_table
from dlka_med.checking.places import Kept
from dlka_med.checking.rules_dataset import are_named, patients
from dlka_med.checking.rules_labels import holders
from dlka_med.checking.survey import Survey
from dlka_med.text_files import read_text

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
    groups: list[Sequence[str]] = []
    if survey.groups is not None and "groups-wrong" not in told:
        gone = {case.id for case in survey.cases} - {one.case.id for one in kept}
        rows = csv.reader(io.StringIO(read_text(survey.groups), newline=""))
        groups = [row for row in rows if any(row) and row[0].strip() not in gone]
    if "ids-one-patient" in told:
        found = patients([case.id for case in survey.cases])
        done = f"{LEFT_OUT}: the ids do not call anybody a patient, so nothing says which cases belong together"
        if are_named(found):
            patient_of = {name: patient for patient, members in found.items() for name in members}
            groups = [("case", "group"), *((one.case.id, patient_of[one.case.id]) for one in kept)]
            done = "written, one group per patient"
        fixes.append(Fix("", str(survey.dataset.root / "groups.csv"), "ids-one-patient", done))
    if groups:
        write_table(folder / "groups.csv", groups)
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
    lists = [described[key] for key in ("training", "test") if isinstance(described.get(key), list)]
    listed = {survey.dataset.root / one["image"]: one for ones in lists for one in ones if _names_image(one)}
    training = [
        _entry(listed, one) | {"label": _listed(one.label)}
        for one in kept
        if one.case.id in trained and one.label is not None
    ]
    others = [one for one in kept if one.case.id not in trained]
    test = [_entry(listed, one) if one.case.images[0] in listed else _listed(one.images[0]) for one in others]
    if isinstance(described.get("training"), list):
        described["training"] = training
        # A list of images that nobody shipped stays.
        if "test" in described and (survey.dataset.root / "imagesTs").is_dir():
            described["test"] = test
    for key, count in (("numTraining", len(training)), *([("numTest", len(test))] if survey.dataset.test else [])):
        if key in described and described[key] != count:
            fixes.append(Fix("", source, "count-wrong", f"{key} corrected from {described[key]} to {count}"))
            described[key] = count
    if never:
        absent = {name: value for name, (value,) in survey.scheme.target_values.items() if name in never}
        described["labels"] = _without(described.get("labels", {}), absent)
        if isinstance(segments := described.get("segments"), dict):
            described["segments"] = {name: look for name, look in segments.items() if name not in absent}
        fixes += [Fix("", source, "label-absent", f"label {name!r} taken out: no case holds it") for name in absent]
    return described, fixes


def _names_image(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("image"), str)


def _entry(listed: Mapping[Path, dict[str, Any]], one: Kept) -> dict[str, Any]:
    """The entry of a list with all that it says of the case."""
    return {**listed.get(one.case.images[0], {}), "image": _listed(one.images[0])}


def _listed(path: Path) -> str:
    return f"./{path.as_posix()}"


def _without(labels: Mapping[str, Any], absent: Mapping[str, int]) -> dict[str, Any]:
    """The labels of a description, names or values first, without the absent ones."""
    gone = {(str(name), str(value)) for name, value in absent.items()}
    return {key: entry for key, entry in labels.items() if not {(str(key), str(entry)), (str(entry), str(key))} & gone}

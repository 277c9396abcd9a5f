"""What stands in the sections of a report."""

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlka_med.checking.check import check_dataset
from dlka_med.checking.findings import in_order, verdict
from dlka_med.comparing.folder import ComparisonFolder
from dlka_med.config.comments import comments_of
from dlka_med.config.loading import yaml_of
from dlka_med.data.cases import Case
from dlka_med.errors import InputError
from dlka_med.evaluation.confusion import confusion
from dlka_med.evaluation.evaluate import evaluate
from dlka_med.evaluation.figures import ON_DARK
from dlka_med.evaluation.label_maps import find_label_maps
from dlka_med.evaluation.measures import HEADLINES
from dlka_med.evaluation.summary import Evaluation, Statistic, summarise
from dlka_med.folds_folder import FoldsFolder
from dlka_med.inference.temperature import digest_of_weights
from dlka_med.report import figures
from dlka_med.report.panels import read_panel, values_by_name
from dlka_med.report.pictures import planes_of
from dlka_med.report.predicted import ROLES, Predicted
from dlka_med.report.subject import Part, Subject
from dlka_med.report.tables import (
    agreement,
    compared_networks,
    confused,
    most_confused,
    number,
    per_case,
    per_label,
    ranked,
    span,
)
from dlka_med.report.uncertainty import bands, maps_of, section_of
from dlka_med.run_folder import RunFolder
from dlka_med.statistics import LEVEL, TOO_FEW
from dlka_med.text_files import read_text

log = logging.getLogger("dlka_med")

MOST_CLASSES = 12  # that a table of confusion has room for
ALIKE = 5  # findings of one code that are shown
TRAINED = ROLES["train"]


@dataclass(frozen=True)
class Judged:
    """Label maps with their scores, and the cases of the dataset by id."""

    predicted: Predicted
    result: Evaluation
    cases: Mapping[str, Case]


def scores_of(subject: Subject, judged: Judged, against: str | Path | None, workers: int | None) -> dict[str, Any]:
    result, maps = judged.result, maps_of(judged.predicted.folder)
    scheme, dice = subject.config.dataset.scheme, result.mean["dice"]
    viewers = _viewers(subject, judged, maps)
    return {
        "headlines": [
            (figures.titled(result, name), *_headline(result.mean[name], _digits(name))) for name in HEADLINES
        ],
        "cases": result.cases,
        "patients": result.patients,
        "interval_note": TOO_FEW if dice.interval is None else f"{LEVEL:.0%} intervals of the mean over patients",
        "labels": per_label(result),
        "boxes": [plot for name in HEADLINES if (plot := figures.boxes(result, name)) is not None],
        "extent": "Volumes" if result.unit == "mm" else "Areas",
        "volumes": figures.volumes(*figures.volumes_of(result)),
        "agreement": agreement(*figures.volumes_of(result)),
        "confusion": _confusion(subject, judged),
        "uncertainty": section_of(_files(judged), maps, scheme),
        "bands": bands(),
        "viewers": viewers,
        "sliders": any(len(plane.numbers) > 1 for viewer in viewers for plane in viewer["planes"]),
        "colours": _colours(subject),
        "against": _against(subject, judged, against, workers),
        "table": per_case(result, judged.predicted.roles),
    }


def _headline(statistic: Statistic, digits: int) -> tuple[str, str]:
    return number(statistic.mean, digits), span(statistic.interval, digits)


def warnings_of(judged: Judged) -> Iterator[str]:
    result, roles = judged.result, judged.predicted.roles
    scored = list(result.patient_of)
    if judged.predicted.others:
        yield judged.predicted.others
    if seen := [case for case in scored if roles.get(case) == TRAINED]:
        yield (
            f"{len(seen)} of {len(scored)} cases trained the network: their figures say nothing about new patients "
            f"({', '.join(seen[:3])}{', ...' if len(seen) > 3 else ''}).{_of_the_others(result, set(seen))}"
        )
    if unknown := sum(roles.get(case) == "unknown" for case in scored):
        yield f"{unknown} of {len(scored)} cases are not known to be new to the network."
    if result.cases_without_reference:
        yield f"{len(result.cases_without_reference)} predictions have no reference and are not counted."


def _of_the_others(result: Evaluation, seen: set[str]) -> str:
    """The headlines of the cases that did not train."""
    others = [case for case in result.patient_of if case not in seen]
    if not others:
        return ""
    rows = [row for row in result.scores if row.case not in seen]
    alone = summarise(rows, others, list(result.labels), result.protocol, result.unit, result.patient_of)
    told = [f"{figures.titled(result, name)} {_headline(alone.mean[name], _digits(name))[0]}" for name in HEADLINES]
    return f" Without them ({len(others)} cases): {', '.join(told)}."


def _digits(measure: str) -> int:
    return 2 if measure == "hd95" else 3


def _confusion(subject: Subject, judged: Judged) -> Any:
    """A table; None with regions, which overlap, and with a single label."""
    scheme = subject.config.dataset.scheme
    if scheme.has_regions or len(scheme.values) < 3:
        return None
    names = ["background", *(scheme.value_names[value] for value in scheme.values[1:])]
    counts = confusion(_files(judged).values(), scheme)
    return confused(counts, names) if len(names) <= MOST_CLASSES else most_confused(counts, names)


def _files(judged: Judged) -> dict[str, tuple[Path, Path]]:
    """Prediction and reference of each case."""
    maps = find_label_maps(judged.predicted.folder)
    return {case: (maps[case], judged.cases[case].label) for case in judged.result.patient_of}


def _viewers(subject: Subject, judged: Judged, uncertain: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Two of the worst cases, the median and the best, with their slices; of two cases worst and best."""
    order, maps = ranked(judged.result), find_label_maps(judged.predicted.folder)
    labels = values_by_name(subject.config.dataset.scheme)
    shown = {}
    for place, word in ((0, "Worst"), (len(order) - 1, "Best"), (1, "Second worst"), (len(order) // 2, "Median")):
        if 0 <= place < len(order):
            shown.setdefault(place, word)
    found = []
    for place, word in sorted(shown.items()):
        case = order[place]
        panel = read_panel(judged.cases[case], maps[case], subject.config, uncertainty=uncertain.get(case))
        rows = [row for row in judged.result.scores if row.case == case]
        told = "; ".join(f"{row.label} {number(row.values['dice'], 3)}" for row in rows)
        seen = ". The network trained on it" if judged.predicted.roles.get(case) == TRAINED else ""
        planes = planes_of(panel, labels)
        found.append(
            {
                "word": word,
                "case": case,
                "told": f"Dice: {told}{seen}",
                "planes": planes,
                "moving": [plane.moving for plane in planes],
                "widths": sum(100 / plane.height for plane in planes),
            }
        )
    return found


def _colours(subject: Subject) -> list[tuple[str, str]]:
    names = values_by_name(subject.config.dataset.scheme)
    return [(name, ON_DARK[place % len(ON_DARK)]) for place, name in enumerate(names)]


def _against(subject: Subject, judged: Judged, against: str | Path | None, workers: int | None) -> Any:
    if against is None:
        return None
    (comparison,), asked = judged.result.comparisons, subject.config.dataset
    root = subject.config.dataset.root
    others = evaluate(Path(against), root, label_names=asked.labels, groups=asked.groups, workers=workers or 1)
    plots = [figures.differences(judged.result, others, comparison, name) for name in HEADLINES]
    told = {"cases": comparison.cases, "trained": len(comparison.trained)}
    return {"other": comparison.other, "claims": comparison.claims, "plots": plots} | told


def comparison_of(subject: Subject) -> Any:
    folder = ComparisonFolder(subject.path)
    if subject.kind != "comparison" or not folder.result_file.is_file():
        return None
    try:
        content = json.loads(read_text(folder.result_file))
        return {
            "table": compared_networks(content),
            "plot": figures.networks(content, folder.read().ablated is not None),
            "claims": [(one["other"], one["claims"]) for one in content["comparisons"]],
            "counted": f"{content['cases']} cases of {content['patients']} patients",
            "left_out": list(content["left_out"].items()),
        }
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder.result_file} is damaged ({error!r}): run the comparison again") from error


def worth_telling(subject: Subject) -> Sequence[Part]:
    """Of a comparison the first training of each network, of folds all."""
    if subject.kind != "comparison":
        return subject.parts
    return list({part.network: part for part in reversed(subject.parts)}.values())[::-1]


def reliability_of(subject: Subject, judged: Judged | None) -> Any:
    folder = FoldsFolder(subject.path)
    if subject.kind == "comparison" or not folder.calibration_file.is_file():
        return None
    try:
        content = json.loads(read_text(folder.calibration_file))
        told = f"temperature {content['temperature']:.3f}, from {content['cases']} held-out cases"
        fitted_for = set(dict(content.get("weights", {})).values())
    except (ValueError, KeyError, TypeError):
        log.warning("%s is damaged and left out of the report", folder.calibration_file)
        return None
    ready = [part.run for part in subject.parts if part.run.weights_file.is_file()]
    if fitted_for and not fitted_for.issuperset(map(digest_of_weights, ready)):
        told += ", of other weights than there are now"
    if judged is not None and judged.predicted.others:
        told += ", not of the weights that made the predictions"
    plot = figures.reliability(content)
    return None if plot is None else {"plot": plot, "told": told}


def check_of(subject: Subject, workers: int | None) -> dict[str, Any]:
    asked = subject.config.dataset
    folds = asked.folds if isinstance(asked.folds, int) else 5
    try:
        report = check_dataset(
            asked.root, channels=asked.channels, labels=asked.labels, groups=asked.groups, folds=folds, workers=workers
        )
    except InputError as error:
        return {"verdict": f"the dataset cannot be checked: {error}", "findings": [], "more": 0}
    shown = []
    by_code: dict[str, int] = {}
    for finding in in_order(report.findings):
        by_code[finding.code] = by_code.get(finding.code, 0) + 1
        if by_code[finding.code] <= ALIKE:
            shown.append(finding)
    return {"verdict": verdict(report.findings), "findings": shown, "more": len(report.findings) - len(shown)}


def settings_of(subject: Subject) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Sections of the config, each with its keys, values and what the file says of them."""
    first = subject.parts[0]
    file = first.run.config_file
    planned = ComparisonFolder(subject.path).config_file(first.network)
    if subject.kind == "comparison" and os.path.isfile(planned):
        file = planned
    comments = comments_of(file) | _reasons(first.run)
    sections: dict[str, list[tuple[str, str, str]]] = {}
    for key, value in _flat(first.run.config.model_dump(mode="json")):
        section, _, name = key.rpartition(".")
        sections.setdefault(section or "run", []).append((name, yaml_of(value), comments.get(key, "")))
    return list(sections.items())


def _reasons(run: RunFolder) -> dict[str, str]:
    """What the config that a run was started from said; nothing of a run that did not keep it."""
    try:
        content = json.loads(read_text(run.reasons_file)) if run.reasons_file.is_file() else {}
    except ValueError:
        content = {}
    return {str(key): str(said) for key, said in content.items()} if isinstance(content, dict) else {}


def _flat(content: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict) and before + key != "dataset.labels":
            yield from _flat(value, f"{before}{key}.")
        else:
            yield before + key, value

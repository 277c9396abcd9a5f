"""An evaluation as files, and as a table to read in a terminal."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from dlka_med.evaluation.measures import Measure
from dlka_med.evaluation.origins import format_origins
from dlka_med.evaluation.score import LabelScore
from dlka_med.evaluation.summary import Evaluation, Statistic, headlines
from dlka_med.files import whole_folder
from dlka_med.statistics import LEVEL, TOO_FEW, Interval

COUNTS = ("reference_ml", "prediction_ml", "reference_voxels", "prediction_voxels")


def write(result: Evaluation, out: str | Path) -> None:
    """Write `cases.csv` and `summary.json` into the new folder `out`, both or neither."""
    with whole_folder(out) as folder:
        with (folder / "cases.csv").open("w", newline="", encoding="utf-8") as file:
            rows = records(result)
            table = csv.DictWriter(file, fieldnames=list(columns(result)))
            table.writeheader()
            table.writerows(rows)
        text = json.dumps(result.summary(), indent=2, ensure_ascii=False, allow_nan=False)
        (folder / "summary.json").write_text(text + "\n", encoding="utf-8")


def columns(result: Evaluation) -> tuple[str, ...]:
    """Of `cases.csv`; pixels have no volume."""
    counts = COUNTS if result.unit == "mm" else COUNTS[2:]
    return ("case", "label", "status", *result.with_units(result.measures), *counts)


def records(result: Evaluation, scores: Iterable[LabelScore] | None = None) -> list[dict[str, str | float | None]]:
    """One per case and label, by `columns`."""
    known, found = columns(result), []
    for score in result.scores if scores is None else scores:
        figures = result.with_units({name: score.values.get(name) for name in result.measures})
        record = {"case": score.case, "label": score.label, "status": score.status, **figures}
        found.append(record | {count: getattr(score, count) for count in COUNTS if count in known})
    return found


def format_summary(result: Evaluation) -> str:
    """A table to read in a terminal."""
    measures = headlines(result)
    lesions = {name: result.measures[name] for name in ("lesion_f1", "cldice") if name in result.measures}
    shown = measures | lesions
    head = ["label"]
    for name, measure in shown.items():
        head.append(_title(name, measure, result))
        if name == "dice":
            head.append(f"{LEVEL:.0%} interval")
    table = [[*head, "cases", "missed", "false pos.", "empty"]]
    for name, label in result.labels.items():
        counts = (label.cases, label.missed, label.false_positive, label.both_empty)
        table.append([name, *_cells(label.figures, shown), *map(str, counts)])
    table.append(["mean", *_cells(result.mean, shown), str(result.cases), "", "", ""])
    lines = aligned(table)
    if result.patients < result.cases:
        lines.append(f"{result.cases} cases of {result.patients} patients")
    if result.origins:
        lines.append(format_origins(result.origins, result.cases))
    if result.mean["dice"].mean is not None and result.mean["dice"].interval is None:
        lines.append(TOO_FEW)
    if result.cases_without_prediction:
        lines.append(f"{len(result.cases_without_prediction)} references without a prediction are not counted")
    if result.cases_without_reference:
        lines.append(f"{len(result.cases_without_reference)} predictions without a reference are not counted")
    if one_sided := (*result.labels_without_prediction, *result.labels_without_reference):
        lines.append(f"labels that one side alone names are not counted: {', '.join(one_sided)}")
    return "\n".join([*lines, *_convention(result), *comparison_lines(result)]) + "\n"


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """The rows of a table as lines of text, the first column to the left, all others to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]


def cell(value: float | None, digits: int) -> str:
    """A figure in a table."""
    return "-" if value is None else f"{value:.{digits}f}"


def _rank(rank: float, span: Interval | None) -> str:
    return f"{rank:g}" if span is None else f"{rank:g} ({span[0]:g} to {span[1]:g})"


def _title(name: str, measure: Measure, result: Evaluation) -> str:
    if name == "nsd":
        return "NSD" if result.protocol.tolerances else f"NSD {result.protocol.tolerance:g} {result.unit}"
    return f"{measure.title} {result.unit}" if measure.kind == "distance" else measure.title


def _cells(figures: Mapping[str, Statistic], measures: Mapping[str, Measure]) -> list[str]:
    cells = []
    for name, measure in measures.items():
        cells.append(cell(figures[name].mean, measure.digits))
        if name == "dice":
            span = figures[name].interval
            cells.append("-" if span is None else f"{span[0]:.3f} to {span[1]:.3f}")
    return cells


def _convention(result: Evaluation) -> list[str]:
    if result.convention is None:
        return []
    means = {**result.convention.labels, "mean": result.convention.mean}
    table = [[result.convention.name, *result.convention.mean]]
    table += [[name, *(cell(value, 4) for value in values.values())] for name, values in means.items()]
    return ["", *aligned(table)]


def comparison_lines(result: Evaluation) -> list[str]:
    """What may be claimed against each of the others, and the ranks, as lines of text."""
    lines = []
    for comparison in result.comparisons:
        lines += ["", f"against {comparison.other}, {comparison.cases} cases of both:", *comparison.claims]
        if left_out := len(comparison.only_ours) + len(comparison.only_theirs):
            lines.append(f"{left_out} cases that one of them alone predicted are not compared")
        if comparison.trained:
            told = f"{len(comparison.trained)} of its cases trained the run that predicted them"
            lines.append(f"{told}: {comparison.other} looks better than it is")
    if result.ranks:
        table = [["rank by mean", *(result.measures[name].title for name in result.ranks)]]
        for who in next(iter(result.ranks.values())):
            placed = [result.ranks[name][who] for name in result.ranks]
            table.append([who, *(_rank(rank, span) for rank, span in placed)])
        lines += ["", *aligned(table)]
    return lines

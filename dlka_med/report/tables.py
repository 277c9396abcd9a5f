"""Figures as rows of tables, ready to be read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlka_med.evaluation.confusion import taken_for
from dlka_med.evaluation.figures_scores import limits_of_agreement
from dlka_med.evaluation.measures import Measure
from dlka_med.evaluation.summary import Evaluation, Statistic, table_of
from dlka_med.report.figures import titled
from dlka_med.statistics import Interval

SHOWN = ("dice", "hd95", "nsd", "precision", "recall", "volume_error_percent")


@dataclass(frozen=True)
class Table:
    """Head and rows, the first cell of each row its head; `note` below. A cell is a text, or a text and a small one."""

    head: Sequence[str]
    rows: Sequence[Sequence[str | tuple[str, str]]]
    note: str = ""
    last_is_total: bool = False


def per_label(result: Evaluation) -> Table:
    """Means with their intervals, label by label, and of all labels."""
    measures = {name: result.measures[name] for name in SHOWN if name in result.measures}
    head = ["label", *(titled(result, name) for name in measures)]
    head.append("cases")
    rows: list[list[str | tuple[str, str]]] = []
    for name, label in result.labels.items():
        cells = [_cell(label.figures[key], measure) for key, measure in measures.items()]
        wrong = ((label.missed, "missed"), (label.false_positive, "false"))
        rows.append([name, *cells, (str(label.cases), ", ".join(f"{count} {word}" for count, word in wrong if count))])
    means = [_cell(result.mean[key], measure) for key, measure in measures.items()]
    if len(rows) > 1:
        rows.append(["all labels", *means, str(result.cases)])
    return Table(head, rows, " ".join(_explained(result)), last_is_total=len(rows) > 1)


def _explained(result: Evaluation) -> Iterator[str]:
    """What the words mean that stand beside numbers of cases."""
    labels = result.labels.values()
    if any(label.missed for label in labels):
        yield "Missed: the reference has the label, the prediction does not."
    if any(label.false_positive for label in labels):
        yield "False: the prediction has the label, the reference does not."
    if any(label.cases < result.cases for label in labels):
        yield "Where neither has it, the case does not count."


def per_case(result: Evaluation, roles: Mapping[str, str]) -> Table:
    """A row for each case, the worst first."""
    scores = {row.case: {} for row in result.scores}
    for row in result.scores:
        scores[row.case][row.label] = row
    labels, order = list(result.labels), ranked(result)
    grouped = result.patients < result.cases
    head = ["case", *(["patient"] if grouped else []), "was", "mean Dice"]
    head += [f"Dice {label}" for label in labels] if len(labels) > 1 else []
    head += [f"mean {titled(result, 'hd95')}"]
    rows = []
    dice, hd95 = (_by_case(result, name) for name in ("dice", "hd95"))
    for case in [*order, *(case for case in scores if case not in order)]:
        patient = result.patient_of[case].partition(" ")[2]
        row = [case, *([patient] if grouped else []), roles.get(case, "new"), number(dice[case], 3)]
        row += [number(scores[case][label].values["dice"], 3) for label in labels] if len(labels) > 1 else []
        rows.append([*row, number(hd95[case], 2)])
    return Table(head, rows)


def agreement(volumes: Mapping[str, tuple[NDArray, NDArray]], unit: str) -> Table:
    """Mean error of the volumes, and its limits of agreement, label by label.

    Args:
        volumes: reference and prediction of the cases, by label.
    """
    rows, digits = [], 2 if unit == "ml" else 0
    for label, (expected, found) in volumes.items():
        error = found - expected
        low, high = limits_of_agreement(error) or (None, None)
        between = "" if low is None or high is None else span((low, high), digits)
        rows.append([label, number(float(np.mean(expected)), digits), number(float(error.mean()), digits), between])
    note = f"In {unit}: mean of the reference, mean error, limits of agreement"
    return Table(["label", "reference", "error", "limits"], rows, note)


def ranked(result: Evaluation) -> list[str]:
    """Cases by their mean Dice over labels, the worst first; those that have none are left out."""
    means = _by_case(result, "dice")
    return sorted((case for case, mean in means.items() if mean is not None), key=lambda case: (means[case], case))


def confused(counts: NDArray[np.int64], names: Sequence[str]) -> Table:
    """Of each label's voxels, the share that was taken for each other.

    Args:
        counts: (K, K), the background first.
        names: of the classes.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    rows = [
        [name, *(f"{100 * share:.1f}" if count else "0" for share, count in zip(row, counted, strict=True))]
        for name, row, counted in zip(names[1:], shares[1:], counts[1:], strict=True)
    ]
    return Table(
        ["reference", *names],
        rows,
        "Percent of each label's voxels in the reference, by what they became",
    )


def most_confused(counts: NDArray[np.int64], names: Sequence[str], most: int = 20) -> Table:
    """The same of many labels: the largest shares alone."""
    found = taken_for(counts, dict(enumerate(names)))
    rows = [[label, other, f"{100 * share:.1f}"] for label, other, share in found[:most]]
    return Table(["reference", "became", "percent"], rows, f"The {len(rows)} largest of {len(found)} confusions")


def compared_networks(content: Mapping[str, Any]) -> Table:
    """The networks of a `compare.json`."""
    unit = content["unit"]
    head = ["network", "Dice", "spread of seeds", f"HD95 ({unit})", f"NSD {content[f'tolerance_{unit}']:g} {unit}"]
    head += ["parameters", "multiply-adds", "s per step", "s per case"]
    rows = []
    for name, one in content["networks"].items():
        mean = one["mean"]
        dice = mean["dice"]
        rows.append(
            [
                name,
                (number(dice["mean"], 4), span(dice["interval"], 3)),
                number(one["spread_of_seeds"], 4),
                number(mean[f"hd95_{unit}"]["mean"], 2),
                number(mean["nsd"]["mean"], 4),
                f"{one['parameters'] / 1e6:.3g} M",
                f"{one['multiply_adds'] / 1e9:.3g} G",
                number(one["seconds_per_step"], 3),
                number(one["seconds_per_case"], 3),
            ]
        )
    return Table(head, rows)


def number(value: float | None, digits: int) -> str:
    """A figure with so many digits; a dash where there is none."""
    if value is None:
        return "\N{EN DASH}"
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def span(interval: Interval | None, digits: int) -> str:
    """An interval in words; empty where there is none."""
    return "" if interval is None else f"{number(interval[0], digits)} to {number(interval[1], digits)}"


def _cell(statistic: Statistic, measure: Measure) -> tuple[str, str]:
    digits = 3 if measure.kind == "share" else 2
    return number(statistic.mean, digits), span(statistic.interval, digits)


def _by_case(result: Evaluation, measure: str) -> dict[str, float | None]:
    """The mean over the labels that a case has."""
    table = table_of(result.scores, measure, len(result.labels))
    cases = list(dict.fromkeys(row.case for row in result.scores))
    found = {}
    for case, row in zip(cases, table, strict=True):
        known = row[np.isfinite(row)]
        found[case] = float(known.mean()) if known.size else None
    return found

"""What a dataset holds, in a table."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dlka_med.checking.survey import Survey
from dlka_med.config.labels import IGNORE
from dlka_med.data.grey import PERCENTILES


def summary(survey: Survey) -> dict[str, Any]:
    """Cases, spacings, sizes, channels, and voxels per label, ready for JSON."""
    readable = survey.readable
    groups = {case.group for case in survey.dataset.cases} - {None}
    return {
        "cases": len(survey.dataset.cases),
        "test": len(survey.dataset.test),
        "readable": len(readable),
        "groups": len(groups),
        "spacing": _spread([facts.spacing for facts in readable]),
        "size": _spread([facts.size for facts in readable]),
        "channels": {name: _grey(survey, index) for index, name in enumerate(survey.dataset.channels)},
        "labels": _labels(survey),
    }


def table(facts: dict[str, Any]) -> str:
    """`summary` as text."""
    cases = f"{facts['cases']} with a label, {facts['test']} without, {facts['readable']} readable"
    rows = [("cases", cases + (f", {facts['groups']} groups" if facts["groups"] else ""))]
    for key in ("spacing", "size"):
        if facts[key] is not None:
            low, middle, high = (" x ".join(f"{n:.4g}" for n in facts[key][end]) for end in ("min", "median", "max"))
            rows.append((key, low if low == high else f"{low} to {high}, median {middle}"))
    for name, grey in facts["channels"].items():
        told = (
            "" if grey is None else "{min:.4g} to {max:.4g}, 99 of 100 voxels {lower:.4g} to {upper:.4g}".format(**grey)
        )
        rows.append(("channel", f"{name}  {told}".rstrip()))
    for name, label in facts["labels"].items():
        value = str(label["value"]).strip("[]").replace(" ", "")
        told = f"{value:>3}  {name}: {label['voxels']} voxels ({label['share']:.2%}) in {label['cases']} cases"
        rows.append(("label", told))
    return "\n".join(f"{key:<8} {told}" for key, told in rows)


def _spread(rows: Sequence[Sequence[float]]) -> dict[str, list[float]] | None:
    """Per axis as stored; None where cases have other numbers of axes, or there are none."""
    if len({len(row) for row in rows}) != 1:
        return None
    columns = np.array(rows, dtype=np.float64)
    return {"min": columns.min(0).tolist(), "median": np.median(columns, 0).tolist(), "max": columns.max(0).tolist()}


def _grey(survey: Survey, index: int) -> dict[str, float] | None:
    """Of all cases the extremes, and the median of their percentiles."""
    count = len(survey.dataset.channels)
    channels = [facts.channels[index] for facts in survey.readable if len(facts.channels) == count]
    if not channels:
        return None
    return {
        "min": min(channel.minimum for channel in channels),
        "max": max(channel.maximum for channel in channels),
        "lower": float(np.median([channel.grey.whole.lower for channel in channels])),
        "upper": float(np.median([channel.grey.whole.upper for channel in channels])),
        "percentiles": list(PERCENTILES),
    }


def _labels(survey: Survey) -> dict[str, dict[str, Any]]:
    """Voxels and cases of each label and of each region as a whole."""
    counted = [facts.label.voxels for facts in survey.labelled if facts.label is not None]
    total = sum(sum(voxels.values()) for voxels in counted)
    kinds = {survey.value_names[0]: (0,), **survey.scheme.target_values}
    if survey.scheme.ignore is not None:
        kinds[IGNORE] = (survey.scheme.ignore,)
    return {name: _label(values, counted, total) for name, values in kinds.items()}


def _label(values: tuple[int, ...], counted: list[dict[int, int]], total: int) -> dict[str, Any]:
    voxels = sum(held.get(value, 0) for held in counted for value in values)
    cases = sum(any(value in held for value in values) for held in counted)
    value = values[0] if len(values) == 1 else list(values)
    return {"value": value, "voxels": voxels, "share": voxels / total if total else 0.0, "cases": cases}

"""The plots of a report as SVG, each with words for those who cannot see it."""

import base64
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dlka_med.evaluation.against import paired
from dlka_med.evaluation.figures import plot_curve, series
from dlka_med.evaluation.figures_calibration import plot_reliability
from dlka_med.evaluation.figures_compare import Point, plot_comparison, plot_variants
from dlka_med.evaluation.figures_scores import WIDTH, plot_boxes, plot_courses, plot_differences, plot_volumes
from dlka_med.evaluation.figures_uncertainty import in_bins, plot_uncertainty
from dlka_med.evaluation.measures import MEASURES
from dlka_med.evaluation.summary import Comparison, Evaluation, table_of
from dlka_med.evaluation.uncertainty import Doubts
from dlka_med.metrics import Reliability

FONTS = re.compile(r"'DejaVu Sans'[^;\"]*?sans-serif")


@dataclass(frozen=True)
class Plot:
    """A picture as data URI; `alt`: what it shows, `caption`: how to read it."""

    uri: str
    alt: str
    caption: str = ""


def curves(courses: Mapping[str, Sequence[Mapping[str, object]]]) -> Plot | None:
    """Loss and validation Dice of one training or of several; None before the first epoch."""
    known = {name: rows for name, rows in courses.items() if rows}
    if not known:
        return None
    told = []
    for name, rows in known.items():
        (_, losses), (epochs, dice) = series(rows, "loss"), series(rows, "dice")
        said = f"loss {losses[0]:.3g} to {losses[-1]:.3g}" if losses else "no loss"
        if dice:
            best = int(np.argmax(dice))
            said += f", best validation Dice {dice[best]:.4f} in epoch {epochs[best]:g}, last {dice[-1]:.4f}"
        told.append(f"{name}: {said}" if name else said)
    alt = f"Curves of {len(next(iter(known.values())))} epochs. " + "; ".join(told[:20])
    if len(known) == 1:
        (rows,) = known.values()
        return _drawn(lambda path: plot_curve(rows, path, (WIDTH, 5.4)), alt)
    return _drawn(lambda path: plot_courses(known, path), alt)


def boxes(result: Evaluation, measure: str) -> Plot | None:
    """How a measure spreads over the cases, label by label; None where no case has it."""
    columns = _columns(result, measure)
    if not any(np.isfinite(column).any() for column in columns.values()):
        return None
    told = []
    for label, column in columns.items():
        known = column[np.isfinite(column)]
        if known.size:
            low, middle, high = np.percentile(known, (25, 50, 75))
            told.append(f"{label}: median {middle:.3g}, middle half {low:.3g} to {high:.3g}, lowest {known.min():.3g}")
    title = titled(result, measure)
    return _drawn(lambda path: plot_boxes(columns, title, path), f"Box plot of {title}. " + "; ".join(told))


def volumes_of(result: Evaluation) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], str]:
    """Volumes (of 2D images areas) of reference and prediction by label, of cases that have any; and their unit."""
    key, unit = ("ml", "ml") if result.unit == "mm" else ("voxels", "pixels")
    found = {}
    for label in result.labels:
        rows = [row for row in result.scores if row.label == label and row.status != "both_empty"]
        if rows:
            sides = ([getattr(row, f"{side}_{key}") for row in rows] for side in ("reference", "prediction"))
            found[label] = tuple(np.array(side, float) for side in sides)
    return found, unit


def volumes(found: Mapping[str, tuple[np.ndarray, np.ndarray]], unit: str) -> Plot | None:
    """Errors of volumes against their size; None where there are none."""
    if not found:
        return None
    told = [
        f"{label}: mean error {(predicted - expected).mean():.3g} {unit}"
        for label, (expected, predicted) in found.items()
    ]
    return _drawn(lambda path: plot_volumes(found, unit, path), "Bland-Altman plot. " + "; ".join(told))


def differences(result: Evaluation, others: Evaluation, comparison: Comparison, measure: str) -> Plot:
    """Ours minus theirs in every case of both, label by label."""
    cases = sorted(result.patient_of.keys() & others.patient_of.keys())
    ours, theirs = paired((result.scores, others.scores), cases, measure, list(result.labels))
    found, told = {}, []
    for column, label in enumerate(result.labels):
        apart = comparison.differences[measure][label]
        found[label] = ((ours - theirs)[:, column], None if apart is None else apart.interval)
        if apart is not None:
            told.append(f"{label}: mean {apart.mean:+.4f}")
    title = f"{titled(result, measure)}, difference"
    alt = f"Differences of {titled(result, measure)} against {comparison.other} in {len(cases)} cases. "
    return _drawn(lambda path: plot_differences(found, title, path), alt + "; ".join(told))


def reliability(content: Mapping[str, Any]) -> Plot | None:
    """What `calibration.json` says of the probabilities; None if it is of another version."""
    try:
        before, after = (_reliability(content, when) for when in ("before", "after"))
        eces = [content[when]["near"]["ece"] for when in ("before", "after")]
        alt = f"Reliability diagrams. Calibration error near the foreground {eces[0]:.4f} before, {eces[1]:.4f} after."
    except (KeyError, TypeError, ValueError):
        return None
    return _drawn(lambda path: plot_reliability(before, after, path, (WIDTH, 4.2)), alt)


def uncertainty(found: Doubts) -> Plot:
    """How many voxels are wrong where the network is how uncertain."""
    width, voxels, wrong = in_bins(found)
    told = [
        f"{width * place:g} to {width * (place + 1):g} bit: {100 * wrong[place] / voxels[place]:.2g} %"
        for place in np.flatnonzero(voxels)
    ]
    alt = "Share of wrong voxels by the entropy of the probabilities. " + "; ".join(told)
    return _drawn(lambda path: plot_uncertainty(found, path, (WIDTH, 3.8)), alt)


def networks(content: Mapping[str, Any], ablated: bool) -> Plot | None:
    """Dice of each network of a `compare.json`, against its time or against the first."""
    points = []
    for name, one in content["networks"].items():
        dice, seconds = one["mean"]["dice"], one["seconds_per_step"]
        if dice["mean"] is not None and seconds:
            seeds = [mean for mean in one["seeds"].values() if mean is not None]
            span = None if dice["interval"] is None else tuple(dice["interval"])
            points.append(Point(name, seconds, dice["mean"], span, seeds))
    if not points:
        return None
    alt = "Mean Dice of each: " + "; ".join(f"{point.name} {point.dice:.4f}" for point in points)
    if ablated:
        return _drawn(lambda path: plot_variants(points, path, WIDTH), alt)
    return _drawn(lambda path: plot_comparison(points, path, (WIDTH, 3.6)), alt)


def titled(result: Evaluation, measure: str) -> str:
    """A measure with its unit."""
    known = MEASURES[measure]
    if measure == "nsd":
        return f"surface Dice at {result.protocol.tolerance:g} {result.unit}"
    return f"{known.title} ({result.unit})" if known.kind == "distance" else known.title


def _columns(result: Evaluation, measure: str) -> dict[str, np.ndarray]:
    table = table_of(result.scores, measure, len(result.labels))
    return {label: table[:, column] for column, label in enumerate(result.labels)}


def _reliability(content: Mapping[str, Any], when: str) -> Reliability:
    bins = content["reliability"][when]
    voxels = np.array([one["voxels"] for one in bins], float)
    means = [np.array([one[key] or 0 for one in bins], float) for key in ("confidence", "accuracy")]
    scores = content[when]["near"]
    sums = (voxels.sum() * (scores[name] or 0) for name in ("nll", "brier"))
    return Reliability(voxels, *(voxels * mean for mean in means), *sums)


def _drawn(plot: Callable[[Path], None], alt: str, caption: str = "") -> Plot:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plot.svg"
        plot(path)
        text = path.read_text(encoding="utf-8")
    text = FONTS.sub("system-ui, sans-serif", text[text.index("<svg") :])
    return Plot("data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode(), alt, caption)

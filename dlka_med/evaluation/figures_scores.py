"""Pictures of scores: their spread over cases, volumes against reference, differences, the courses of trainings."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from dlka_med.evaluation.drawing import legend_below, named, plain, save
from dlka_med.evaluation.figures import DASHES, GREY, INK, ON_WHITE, series
from dlka_med.statistics import Interval

WIDTH = 4.2  # inches: what a phone shows without making letters small
MARKERS = "osD^vPX"
FEW = 25  # epochs: each of fewer is marked, so that a single one is seen
OF_AGREEMENT = 1.96  # standard deviations: 95 % of a normal distribution


def plot_boxes(values: Mapping[str, NDArray[np.floating]], title: str, path: str | Path) -> None:
    """Draw a box per label, the first on top, with every case as a dot; what is not finite is left out.

    The box holds the middle half of the cases, its line is the median, the whiskers end at the last case within 1.5
    times the box's length.

    Args:
        values: of the cases, by label.
        title: of the axis.
        path: the picture: PNG, SVG or PDF, as its name ends.

    Raises:
        InputError: the picture cannot be written.
    """
    figure, axes = _rows_of(len(values))
    axes.use_sticky_edges = False  # a box that begins at the least value would lie on the axis
    random = np.random.default_rng(0)
    for row, column in enumerate(values.values()):
        known = np.asarray(column, float)[np.isfinite(column)]
        if not known.size:
            continue
        color = ON_WHITE[row % len(ON_WHITE)]
        _box(axes, row, known)
        spots = row + random.uniform(-0.2, 0.2, known.size)
        axes.plot(known, spots, "o", color=color, markersize=3.2, alpha=0.65, markeredgewidth=0)
    _name_rows(axes, list(values))
    axes.set_xlabel(title)
    _finish(figure, path)


def plot_volumes(volumes: Mapping[str, tuple[NDArray, NDArray]], unit: str, path: str | Path) -> None:
    """Draw the error of each volume against the mean of both, with limits of agreement (Bland & Altman 1986).

    Args:
        volumes: reference and prediction of the cases, by label.
        unit: of the volumes, or areas.
        path: see `plot_boxes`.

    Raises:
        InputError: the picture cannot be written.
    """
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained", facecolor="white")
    axes, errors, shown = figure.subplots(), [], []
    for place, (label, (expected, found)) in enumerate(volumes.items()):
        error = np.asarray(found, float) - np.asarray(expected, float)
        errors.append(error)
        style = {"color": ON_WHITE[place % len(ON_WHITE)], "marker": MARKERS[place % len(MARKERS)]}
        middle = (np.asarray(found, float) + np.asarray(expected, float)) / 2
        shown += axes.plot(middle, error, linestyle="none", markersize=4.5, alpha=0.75, label=plain(label), **style)
    whole = np.concatenate([*errors, np.empty(0)])
    axes.axhline(0, color=INK, linewidth=0.8)
    if (limits := limits_of_agreement(whole)) is not None:
        shown.append(axes.axhline(whole.mean(), color=GREY, linestyle="dashed", linewidth=1.3, label="mean error"))
        style = {"color": GREY, "linestyle": "dotted", "linewidth": 1.3, "label": "limits of agreement"}
        _, last = (axes.axhline(height, **style) for height in limits)
        shown.append(last)
    axes.set_xlabel(f"mean of reference and prediction ({unit})")
    axes.set_ylabel(f"prediction - reference ({unit})")
    legend_below(figure, *named(shown), 3, fontsize=8)
    _finish(figure, path)


def plot_differences(
    differences: Mapping[str, tuple[NDArray[np.floating], Interval | None]], title: str, path: str | Path
) -> None:
    """Draw a row per label: the difference in each case as a dot, their mean as a bar with its interval, and zero.

    Args:
        differences: of the cases, and the interval of their mean, by label.
        title, path: see `plot_boxes`.

    Raises:
        InputError: the picture cannot be written.
    """
    figure, axes = _rows_of(len(differences))
    random = np.random.default_rng(0)
    axes.axvline(0, color=INK, linewidth=0.8)
    for row, (apart, interval) in enumerate(differences.values()):
        known = np.asarray(apart, float)[np.isfinite(apart)]
        color = ON_WHITE[row % len(ON_WHITE)]
        spots = row + random.uniform(-0.22, 0.22, known.size)
        axes.plot(known, spots, "o", color=color, markersize=3.2, alpha=0.5, markeredgewidth=0)
        if interval is not None:
            axes.plot(interval, [row] * 2, color=INK, linewidth=2.2)
        if known.size:
            axes.plot(known.mean(), row, "D", color=INK, markersize=6, markeredgecolor="white")
    _name_rows(axes, list(differences))
    axes.set_xlabel(title)
    _finish(figure, path)


def plot_courses(courses: Mapping[str, Sequence[Mapping[str, object]]], path: str | Path) -> None:
    """Draw training loss and validation Dice of several trainings over their epochs.

    Args:
        courses: rows as those of `plot_curve`, by the names of the trainings.
        path: see `plot_boxes`.

    Raises:
        InputError: the picture cannot be written.
    """
    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained", facecolor="white")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for place, (name, rows) in enumerate(courses.items()):
        style = {"color": ON_WHITE[place % len(ON_WHITE)], "linestyle": DASHES[place // len(ON_WHITE) % len(DASHES)]}
        dots = "o" if len(rows) < FEW else None
        upper.plot(*series(rows, "loss"), linewidth=1.4, marker=dots, markersize=3, label=plain(name), **style)
        lower.plot(*series(rows, "dice"), linewidth=1.4, marker="o", markersize=3, **style)
    upper.set_ylabel("training loss")
    lower.set_ylabel("validation Dice")
    lower.set_ylim(0, 1)
    lower.set_xlabel("epoch")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.align_ylabels()
    legend_below(figure, *named(upper.lines), 2, fontsize=8)
    _finish(figure, path)


def limits_of_agreement(errors: NDArray[np.floating]) -> Interval | None:
    """Where 95 % of such errors lie if they are normal (Bland & Altman 1986); None below two."""
    if errors.size < 2:
        return None
    reach = OF_AGREEMENT * float(errors.std(ddof=1))
    return float(errors.mean()) - reach, float(errors.mean()) + reach


def _rows_of(count: int) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, 0.9 + 0.42 * max(count, 2)), layout="constrained", facecolor="white")
    return figure, figure.subplots()


def _box(axes: Axes, row: float, values: NDArray[np.floating]) -> None:
    low, middle, high = np.percentile(values, (25, 50, 75))
    reach = 1.5 * (high - low)
    first, last = values[values >= low - reach].min(), values[values <= high + reach].max()
    axes.barh(row, high - low, 0.55, left=low, facecolor="none", edgecolor=GREY)
    for start, end in ((first, low), (high, last)):
        axes.plot([start, end], [row, row], color=GREY, linewidth=1)
    for end in (first, last):
        axes.plot([end, end], [row - 0.14, row + 0.14], color=GREY, linewidth=1)
    axes.plot([middle, middle], [row - 0.275, row + 0.275], color=INK, linewidth=2, solid_capstyle="butt")


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    shown = [name if len(name) <= 24 else f"{name[:11]}...{name[-10:]}" for name in names]
    axes.set_yticks(range(len(names)), [plain(name) for name in shown])
    axes.set_ylim(max(len(names), 1) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(5))


def _finish(figure: Figure, path: str | Path) -> None:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
    save(figure, path)

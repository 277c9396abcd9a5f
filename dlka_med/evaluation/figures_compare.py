"""Pictures of networks that were compared, and of the variants of one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from dlka_med.evaluation.drawing import plain, save
from dlka_med.evaluation.figures import GREY, INK, ON_WHITE
from dlka_med.statistics import LEVEL, Interval


@dataclass(frozen=True)
class Point:
    """A network of the picture.

    Args:
        seconds: per training step.
        dice: mean over seeds, with its interval over patients.
        seeds: Dice of each seed.
    """

    name: str
    seconds: float
    dice: float
    interval: Interval | None = None
    seeds: Sequence[float] = ()


def plot_comparison(points: Sequence[Point], path: str | Path, size: tuple[float, float] = (8, 5)) -> None:
    """Draw Dice against seconds per training step (log axis), with interval bars, and each seed as a small dot.

    Args:
        path: the picture: PNG, SVG or PDF, as its name ends.
        size: width and height in inches.

    Raises:
        InputError: the picture cannot be written.
    """
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    axes = figure.subplots()
    axes.set_xscale("log")
    by_time = sorted(points, key=lambda point: point.seconds)
    for place, point in enumerate(points):
        color = ON_WHITE[place % len(ON_WHITE)]
        if point.interval is not None:
            axes.plot([point.seconds] * 2, point.interval, color=color, linewidth=2, alpha=0.55)
            axes.plot([point.seconds] * 2, point.interval, "_", color=color, markersize=11, markeredgewidth=2)
        axes.plot([point.seconds] * len(point.seeds), point.seeds, ".", color=INK, markersize=4, zorder=4)
        axes.plot(point.seconds, point.dice, "o", color=color, markersize=9, markeredgecolor="white", zorder=3)
        # Neighbours are named above and below in turn, where their words do not meet.
        shown = [point.dice, *point.seeds, *(point.interval or ())]
        above = by_time.index(point) % 2 == 0
        axes.annotate(
            plain(point.name),
            (point.seconds, max(shown) if above else min(shown)),
            xytext=(0, 8 if above else -8),
            textcoords="offset points",
            ha="center",
            va="bottom" if above else "top",
            color=INK,
            fontsize=10,
        )
    if points:
        axes.set_xlim(by_time[0].seconds / 1.8, by_time[-1].seconds * 1.8)
        axes.margins(y=0.12)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("seconds per training step")
    axes.set_ylabel("mean Dice")
    _finish(figure, points, path)


def plot_variants(points: Sequence[Point], path: str | Path, width: float = 8) -> None:
    """Draw a row for each, the first on top and its Dice as a line through all, with interval bars and seeds as dots.

    Args:
        path: the picture: PNG, SVG or PDF, as its name ends.
        width: in inches.

    Raises:
        InputError: the picture cannot be written.
    """
    figure = Figure(figsize=(width, 1.4 + 0.42 * len(points)), layout="constrained", facecolor="white")
    axes = figure.subplots()
    for row, point in enumerate(points):
        color = ON_WHITE[min(row, 1)]
        if point.interval is not None:
            axes.plot(point.interval, [row] * 2, color=color, linewidth=2, alpha=0.55)
            axes.plot(point.interval, [row] * 2, "|", color=color, markersize=11, markeredgewidth=2)
        axes.plot(point.seeds, [row] * len(point.seeds), ".", color=INK, markersize=4, zorder=4)
        axes.plot(point.dice, row, "o", color=color, markersize=9, markeredgecolor="white", zorder=3)
    for first in points[:1]:
        axes.axvline(first.dice, color=ON_WHITE[0], linewidth=1, alpha=0.4, zorder=0)
    axes.set_yticks(
        range(len(points)), [f"{point.name}\n{point.seconds:.3g} s per step" for point in points], fontsize=8
    )
    axes.set_ylim(max(len(points), 1) - 0.5, -0.5)
    axes.set_xlabel("mean Dice")
    _finish(figure, points, path)


def _finish(figure: Figure, points: Sequence[Point], path: str | Path) -> None:
    (axes,) = figure.axes
    bars = f"bars: {LEVEL:.0%} interval over patients; " if any(point.interval for point in points) else ""
    axes.set_title(f"{bars}small dots: seeds", color=GREY, fontsize=9, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    save(figure, path)

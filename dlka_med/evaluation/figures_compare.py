"""Pictures of networks that were compared, and of the variants of one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox, BboxBase

from dlka_med.evaluation.drawing import legend_below, plain, save
from dlka_med.evaluation.figures import GREY, INK, NARROW, ON_WHITE
from dlka_med.evaluation.figures_scores import MARKERS
from dlka_med.statistics import LEVEL, Interval

APART = 8  # typographic points between a name and what it names


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

    Names stand beside what they name; where one would meet anything else, all of them stand in a legend.

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
    dots = []
    for place, point in enumerate(points):
        color, marker = ON_WHITE[place % len(ON_WHITE)], MARKERS[place // len(ON_WHITE) % len(MARKERS)]
        if point.interval is not None:
            axes.plot([point.seconds] * 2, point.interval, color=color, linewidth=2, alpha=0.55)
            axes.plot([point.seconds] * 2, point.interval, "_", color=color, markersize=11, markeredgewidth=2)
        axes.plot([point.seconds] * len(point.seeds), point.seeds, ".", color=INK, markersize=4, zorder=4)
        dots += axes.plot(
            point.seconds, point.dice, marker, color=color, markersize=9, markeredgecolor="white", zorder=3
        )
    if points:
        axes.set_xlim(by_time[0].seconds / 1.8, by_time[-1].seconds * 1.8)
        axes.margins(y=0.16)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("seconds per training step")
    axes.set_ylabel("mean Dice")
    _title(axes, points)
    if not _name_points(figure, axes, by_time):
        names, columns = [plain(point.name) for point in points], 2 if size[0] < NARROW else 3
        legend_below(figure, dots, names, columns, fontsize=9, handletextpad=0.2)
    save(figure, path)


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
        range(len(points)), [f"{plain(point.name)}\n{point.seconds:.3g} s per step" for point in points], fontsize=8
    )
    axes.set_ylim(max(len(points), 1) - 0.5, -0.5)
    axes.set_xlabel("mean Dice")
    _title(axes, points)
    save(figure, path)


def _name_points(figure: Figure, axes: Axes, points: Sequence[Point]) -> bool:
    """Write each name at the first place where it meets nothing; none, and False, if one has no such place."""
    figure.draw_without_rendering()  # from here on it is known how large things are
    taken = [box for point in points for box in _marks(axes, point, figure.dpi / 72)]
    for point in points:
        for place in _places(point):
            name = axes.annotate(plain(point.name), **place)
            box = name.get_window_extent()
            if _lies_in(box, axes.bbox) and not any(box.overlaps(one) for one in taken):
                taken.append(box)
                break
            name.remove()
        else:
            for name in list(axes.texts):
                name.remove()
            return False
    return True


def _places(point: Point) -> Iterator[dict[str, Any]]:
    """Where its name may stand: above or below all that is drawn of it, or beside the dot or an end of that."""
    low, high = min(_heights(point)), max(_heights(point))
    sides = [(high, 0, APART), (low, 0, -APART)]
    sides += [(height, across, 0) for height in (point.dice, high, low) for across in (APART, -APART)]
    for height, across, up in sides:
        yield {
            "xy": (point.seconds, height),
            "xytext": (across, up),
            "textcoords": "offset points",
            "ha": {0: "center", APART: "left", -APART: "right"}[across],
            "va": {0: "center", APART: "bottom", -APART: "top"}[up],
            "color": INK,
            "fontsize": 10,
        }


def _marks(axes: Axes, point: Point, scale: float) -> Iterator[Bbox]:
    """The boxes of dot, bar and seeds; `scale`: pixels per typographic point."""
    for heights, half in (((point.dice,), 5.5), (point.interval, 6), (point.seeds, 2.5)):
        if heights:
            ends = axes.transData.transform([(point.seconds, min(heights)), (point.seconds, max(heights))])
            yield Bbox(ends).padded(half * scale)


def _heights(point: Point) -> tuple[float, ...]:
    return (point.dice, *point.seeds, *(point.interval or ()))


def _lies_in(box: BboxBase, room: BboxBase) -> bool:
    return room.x0 <= box.x0 and box.x1 <= room.x1 and room.y0 <= box.y0 and box.y1 <= room.y1


def _title(axes: Axes, points: Sequence[Point]) -> None:
    bars = f"bars: {LEVEL:.0%} interval over patients; " if any(point.interval for point in points) else ""
    axes.set_title(f"{bars}small dots: seeds", color=GREY, fontsize=9, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)

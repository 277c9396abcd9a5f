"""Pictures of a training and of predictions."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from dlka_med.errors import InputError
from dlka_med.evaluation.drawing import legend_below, named, plain, save
from dlka_med.evaluation.marks import draw_marks
from dlka_med.metrics import bounding_box, check_spacing
from dlka_med.text_files import read_text

# Okabe & Ito 2008: colours that the colour-blind tell apart, but for those that the background swallows.
ON_DARK = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#D0D3DA")
ON_WHITE = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#0072B2")
DASHES = ("solid", "dashed", "dotted")
DARK, PALE, INK, GREY = "#16181d", "#e8e8ea", "#22262e", "#8b919c"
PLANES = ("sagittal", "coronal", "axial")
NARROW = 6.0  # inches
BESIDE = 20  # names that have room beside a curve


UNKNOWN = -1


@dataclass(frozen=True)
class Panel:
    """One case of a picture.

    Args:
        title: shown above or beside it.
        image: (*S), or (C, *S) of which the first channel is shown (three channels of a 2D image: as RGB). S is
            (x, y, z), of a 2D image (rows, columns).
        reference, prediction: label values (*S), or None where there is none; of voxels that the reference says to
            ignore it has `UNKNOWN`.
        spacing: mm per voxel; None: 1 along every axis.
        uncertainty: entropy in bits (*S), where it is known.
    """

    title: str
    image: NDArray
    reference: NDArray | None = None
    prediction: NDArray | None = None
    spacing: Sequence[float] | None = None
    uncertainty: NDArray | None = None


def plot_curve(
    rows: Sequence[Mapping[str, object]] | str | Path, path: str | Path, size: tuple[float, float] = (9, 6.2)
) -> None:
    """Draw training loss, validation Dice (mean and per label) and learning rate over the epochs.

    Args:
        rows: one mapping per epoch, or a `metrics.csv` of such; the keys epoch, loss, dice, `dice <label>`
            and learning_rate are drawn, as far as they are there and finite.
        path: the picture: PNG, SVG or PDF, as its name ends.
        size: width and height in inches; where it is narrow, or names are many, the legend stands below and adds to
            the height.

    Raises:
        InputError: the CSV is missing, or the picture cannot be written.
    """
    if isinstance(rows, str | Path):
        rows = read_rows(rows)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    upper, middle, lower = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1.4))
    _draw(upper, rows, "loss", color=ON_WHITE[-1])
    upper.set_ylabel("training loss")
    labels = [key for key in dict.fromkeys(key for row in rows for key in row) if key.startswith("dice ")]
    for key, (color, dash) in zip(labels, _styles(len(labels), ON_WHITE), strict=True):
        _draw(middle, rows, key, color=color, linestyle=dash, label=plain(key.removeprefix("dice ")), linewidth=1.2)
    _draw(middle, rows, "dice", color=INK, label="mean", linewidth=2.2)
    middle.set_ylabel("validation Dice")
    middle.set_ylim(bottom=0, top=1)
    _mark_best(middle, rows)
    if middle.lines and (size[0] < NARROW or len(middle.lines) > BESIDE):
        legend_below(figure, *named(middle.lines), 3 if size[0] < NARROW else 6, fontsize=8)
    elif middle.lines:
        place = {"loc": "upper left", "bbox_to_anchor": (1.01, 1), "ncols": 1 + (len(middle.lines) - 1) // 10}
        middle.legend(*named(middle.lines), **place, fontsize=8, frameon=False)
    _draw(lower, rows, "learning_rate", color=GREY)
    lower.set_ylabel("learning rate")
    lower.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    lower.set_ylim(0, 1.1 * (max(series(rows, "learning_rate")[1], default=0) or 1))
    lower.set_xlabel("epoch")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for axes in (upper, middle, lower):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
    figure.align_ylabels()
    save(figure, path, dpi=120)


def read_rows(path: str | Path) -> list[dict[str, str]]:
    """The rows of a `metrics.csv`.

    Raises:
        InputError: the file is missing or no such table.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path), newline="")))
    except csv.Error as error:
        raise InputError(f"{path} cannot be read as the table of a training: {error}") from error
    for number, row in enumerate(rows, 1):
        if None in row:
            raise InputError(f"{path} is damaged: its row {number} has more cells than its head; restore the file")
    return rows


def overlay(
    image: NDArray,
    reference: NDArray | None,
    prediction: NDArray | None,
    labels: Mapping[str, int],
    path: str | Path,
    *,
    spacing: Sequence[float] | None = None,
    title: str = "",
    dpi: int = 130,
    marks: bool = False,
) -> None:
    """Draw the most telling slice across each axis: the reference above, the prediction below.

    A volume is shown as sagittal, coronal and axial slice if its axes run to the right, front and top (RAS).

    Args:
        image, reference, prediction, spacing, title: see `Panel`.
        labels: values by name; background (0) is not drawn.
        path: the picture: PNG, SVG or PDF, as its name ends.
        marks: a scale bar on each slice, and letters that say where left, front and top are.
        dpi: pixels per inch of a picture that is 10 inches wide.

    Raises:
        ValueError: shapes or the number of spacings do not fit.
        InputError: the picture cannot be written.
    """
    panel = Panel(title, image, reference, prediction, spacing)
    picture, steps = _picture(panel)
    dims = len(steps)
    rows = [(name, labelled) for name, labelled in _rows(panel) if labelled is not None] or [("image", None)]
    axes_shown = range(dims) if dims == 3 else [None]
    sizes = [_extent(picture.shape, steps, axis) for axis in axes_shown]
    tallest, width = max(size[1] for size in sizes), sum(size[0] for size in sizes)
    inches = 10.0
    height = inches * tallest / width * len(rows) + 0.9
    figure = Figure(figsize=(inches, min(max(height, 3.5), 14)), layout="constrained", facecolor=DARK)
    grid = figure.subplots(len(rows), len(sizes), squeeze=False, width_ratios=[size[0] for size in sizes])
    for line, (name, labelled) in zip(grid, rows, strict=True):
        for axes, axis in zip(line, axes_shown, strict=True):
            index = None if axis is None else _telling(panel, labels, axis)
            _show(axes, picture, labelled, steps, labels, axis, index)
            if marks:
                unit = "px" if axis is None else "mm"
                draw_marks(axes, *_extent(picture.shape, steps, axis), unit, axis, PALE, DARK)
            if name == rows[0][0] and axis is not None:
                axes.set_title(f"{PLANES[axis]}  {index}", color=GREY, fontsize=9)
        line[0].set_ylabel(name, color=PALE, fontsize=11)
    if title:
        figure.suptitle(plain(title), color=PALE, fontsize=13)
    _legend(figure, labels)
    save(figure, path, dpi=dpi)


def contact_sheet(panels: Sequence[Panel], labels: Mapping[str, int], path: str | Path) -> None:
    """Draw several cases in one picture: a column each, with image, reference and prediction.

    Of a volume, the most telling slice across the last axis is shown.

    Raises:
        ValueError: there is no panel, or one does not fit.
        InputError: the PNG cannot be written.
    """
    if not panels:
        raise ValueError("a contact sheet needs at least one panel")
    pictures = [_picture(panel) for panel in panels]
    extents = [_extent(picture.shape, steps, 2 if len(steps) == 3 else None) for picture, steps in pictures]
    ratios = [width / height for width, height in extents]
    figure = Figure(figsize=(1 + 2.3 * sum(ratios), 8.0), layout="constrained", facecolor=DARK)
    grid = figure.subplots(3, len(panels), squeeze=False, width_ratios=ratios)
    for column, panel, (picture, steps) in zip(grid.T, panels, pictures, strict=True):
        axis = 2 if len(steps) == 3 else None
        index = None if axis is None else _telling(panel, labels, axis)
        rows = (("image", None), *_rows(panel))
        for axes, (name, labelled) in zip(column, rows, strict=True):
            _show(axes, picture, labelled, steps, labels, axis, index)
            if panel is panels[0]:
                axes.set_ylabel(name, color=PALE, fontsize=11)
        column[0].set_title(plain(panel.title), color=PALE, fontsize=9)
    _legend(figure, labels)
    save(figure, path)


def series(rows: Sequence[Mapping[str, object]], key: str) -> tuple[list[float], list[float]]:
    """Epochs and values of a column where both are finite numbers; an epoch not given is counted from 1."""
    pairs = [(_number(row.get("epoch", count)), _number(row.get(key))) for count, row in enumerate(rows, 1)]
    known = [pair for pair in pairs if all(map(math.isfinite, pair))]
    return [epoch for epoch, _ in known], [value for _, value in known]


def _number(value: object) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _draw(axes: Axes, rows: Sequence[Mapping[str, object]], key: str, **style: object) -> None:
    epochs, values = series(rows, key)
    if epochs:
        axes.plot(epochs, values, marker="o" if len(epochs) < 25 else None, markersize=3, **style)


def _mark_best(axes: Axes, rows: Sequence[Mapping[str, object]]) -> None:
    epochs, values = series(rows, "dice")
    if values:
        best = max(range(len(values)), key=values.__getitem__)
        axes.plot(epochs[best], values[best], "*", color=INK, markersize=11, label=f"best {values[best]:.3f}")


def _picture(panel: Panel) -> tuple[NDArray, tuple[float, ...]]:
    """Grey (*S) or RGB (rows, columns, 3) in 0..1, and the spacing."""
    maps = [labelled for _, labelled in _rows(panel) if labelled is not None]
    image = np.asarray(panel.image)
    dims = maps[0].ndim if maps else image.ndim if panel.spacing is None else len(panel.spacing)
    rgb = dims == 2 and image.ndim == 3 and image.shape[0] == 3
    picture = np.moveaxis(image, 0, -1) if rgb else image[0] if image.ndim == dims + 1 else image
    shape = picture.shape[:2] if rgb else picture.shape
    if dims not in (2, 3) or any(labelled.shape != shape for labelled in maps):
        raise ValueError(
            f"the image {image.shape} and label maps {[m.shape for m in maps]} must have one shape, 2D or 3D"
        )
    spacing = (1.0,) * dims if panel.spacing is None else tuple(map(float, panel.spacing))
    check_spacing(spacing, dims)
    return scaled(picture, window_of(picture)), spacing


def window_of(picture: NDArray) -> tuple[float, float]:
    """Greys that are shown as black and white: 0.5 % of the voxels lie below and above."""
    known = picture[np.isfinite(picture)]
    low, high = np.percentile(known, (0.5, 99.5)) if known.size else (0.0, 0.0)
    return float(low), float(high)


def scaled(picture: NDArray, window: tuple[float, float]) -> NDArray[np.float32]:
    """Greys from 0 to 1; what is not finite is black."""
    low, high = window
    known = np.nan_to_num(picture.astype(np.float32), nan=low, posinf=low, neginf=low)
    return np.clip((known - low) / max(high - low, 1e-8), 0, 1)


def _rows(panel: Panel) -> tuple[tuple[str, NDArray | None], ...]:
    return (("reference", panel.reference), ("prediction", panel.prediction))


def _telling(panel: Panel, labels: Mapping[str, int], axis: int) -> int:
    """The slice across `axis` that shows most: many labels before much of one; the middle one if none."""
    others = tuple({0, 1, 2} - {axis})
    maps = [labelled for _, labelled in _rows(panel) if labelled is not None]
    areas = [np.count_nonzero(labelled == value, axis=others) for labelled in maps for value in _values(labels)]
    shown = sum(np.sqrt(area) for area in areas)
    return int(np.argmax(shown)) if np.any(shown) else panel.image.shape[axis - 3] // 2


def _extent(shape: Sequence[int], spacing: Sequence[float], axis: int | None) -> tuple[float, float]:
    """Width and height in mm of a slice across `axis`, or in pixels of a 2D image (None)."""
    across, up = (1, 0) if axis is None else [a for a in range(len(spacing)) if a != axis]
    return shape[across] * spacing[across], shape[up] * spacing[up]


def _show(
    axes: Axes,
    picture: NDArray,
    labelled: NDArray | None,
    spacing: Sequence[float],
    labels: Mapping[str, int],
    axis: int | None,
    index: int | None,
) -> None:
    """One slice in mm, labels as tint and outline; the second axis runs up. A 2D image stands as it is."""
    flat = picture.swapaxes(0, 1) if axis is None else picture.take(index, axis)
    width, height = _extent(picture.shape, spacing, axis)
    frame = {"origin": "lower", "extent": (0, width, 0, height)}
    axes.imshow(np.swapaxes(flat, 0, 1), cmap="gray", vmin=0, vmax=1, interpolation="bilinear", **frame)
    if labelled is not None:
        plane = labelled if axis is None else labelled.take(index, axis).T
        for value, (color, dash) in zip(_values(labels), _styles(len(_values(labels))), strict=True):
            mask = plane == value
            if mask.any():
                tint = np.zeros((*mask.shape, 4), np.float32)
                tint[mask] = (*_rgb(color), 0.22)
                axes.imshow(tint, interpolation="nearest", **frame)
                _outline(axes, mask, color, dash, width, height)
    if axis is None:
        axes.invert_yaxis()
    axes.set(xticks=[], yticks=[], facecolor=DARK, anchor="N")
    axes.spines[:].set_visible(False)


def _outline(axes: Axes, mask: NDArray, color: str, dash: str, width: float, height: float) -> None:
    rows, columns = bounding_box(mask)
    box = np.pad(mask[rows, columns], 1).astype(np.float32)
    x = (np.arange(columns.start - 1, columns.stop + 1) + 0.5) * width / mask.shape[1]
    y = (np.arange(rows.start - 1, rows.stop + 1) + 0.5) * height / mask.shape[0]
    axes.contour(x, y, box, levels=[0.5], colors=[color], linewidths=1.4, linestyles=[dash])


def _styles(count: int, colors: Sequence[str] = ON_DARK) -> list[tuple[str, str]]:
    """Colour and dash of so many things; dashes tell apart what shares a colour."""
    return [(colors[i % len(colors)], DASHES[i // len(colors) % len(DASHES)]) for i in range(count)]


def _values(labels: Mapping[str, int]) -> list[int]:
    return [value for value in labels.values() if value != 0]


def _rgb(color: str) -> tuple[float, ...]:
    return tuple(int(color[start : start + 2], 16) / 255 for start in (1, 3, 5))


def _legend(figure: Figure, labels: Mapping[str, int]) -> None:
    names = [plain(name) for name, value in labels.items() if value != 0]
    if names:
        lines = [Line2D([], [], color=color, linestyle=dash, linewidth=2.5) for color, dash in _styles(len(names))]
        legend_below(figure, lines, names, 7, labelcolor=PALE, fontsize=10)

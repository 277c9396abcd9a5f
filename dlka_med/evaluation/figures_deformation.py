"""Pictures of where the kernel points of deformable layers went, and of what a network looks at."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import StepPatch
from numpy.typing import NDArray

from dlka_med.evaluation.drawing import legend_below, plain, save
from dlka_med.evaluation.figures import DARK, INK, ON_DARK, ON_WHITE, PALE, PLANES
from dlka_med.evaluation.marks import draw_letters

START, LINE = "#9fd3ff", "#ffffff"
MOVED = ("#ff8c1a", "#f5e663", "#3ddc97", "#ff6fb5")  # by offset group
FAINT = 0.22
LEAST = 24.0  # voxels: a picture shows at least as many
ARROWS = 22  # along the longer side of an overview
BINS = 40
DPI = 110
OPPOSITE = dict(zip("LRPAIS", "RLAPSI", strict=True))


@dataclass(frozen=True)
class Ground:
    """The image under the points.

    Args:
        image: (C, *S); three channels of a 2D image are shown as RGB, otherwise the first.
        labels: (*S) class indices; 0 and 255 are not drawn.
        names: of class indices.
        spacing: mm per voxel.
        unit: mm, or pixels of 2D images.
        codes: the end of the body that each axis runs to, such as R, A, S; empty where nobody knows.
    """

    image: NDArray
    labels: NDArray
    names: Mapping[int, str]
    spacing: Sequence[float]
    unit: str = "mm"
    codes: Sequence[str] = ()


@dataclass(frozen=True)
class Aim:
    """The kernel of one output position of a layer; all positions in voxels of the image.

    Args:
        place: voxel that was asked about.
        stride: image voxels per voxel of the layer's map.
        start, moved: (G, K, d) kernel points before and after they move.
        weight: (G, K) modulation, or None.
        homes: (d, *S') centres of the kernels of all output positions about it.
        drift: (d, *S') what the image adds to their mean displacement.
    """

    place: tuple[int, ...]
    stride: tuple[float, ...]
    start: NDArray
    moved: NDArray
    weight: NDArray | None
    homes: NDArray
    drift: NDArray


@dataclass(frozen=True)
class Field:
    """What the logit of a place depends on: gradients (*S) of the window at `origin`, and their radii in mm."""

    place: tuple[int, ...]
    origin: tuple[int, ...]
    as_is: NDArray
    still: NDArray
    radius: float
    radius_still: float


def plot_points(ground: Ground, layers: Mapping[str, Sequence[Aim]], title: str, path: str | Path) -> None:
    """Draw a row for each layer and place: 2D, the drift of all kernels and the points of one; 3D, three planes.

    Of a volume, points within half a voxel of the layer's map of the slice are full, others faint.

    Raises:
        InputError: the PNG cannot be written.
    """
    dims = len(ground.spacing)
    rows = [(name, aim) for name, aims in layers.items() for aim in aims]
    columns = 4 if dims == 3 else 2
    figure = Figure(figsize=(3.6 * columns, 3.75 * len(rows) + 0.9), layout="constrained", facecolor=DARK)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for line, (name, aim) in zip(grid, rows, strict=True):
        plane = None if dims == 2 else 2
        _drift(line[0], ground, aim, plane)
        line[0].set_title(f"{plain(name)}: kernels' drift by the image", color=PALE, fontsize=9)
        for axes, axis in zip(line[1:], [None] if dims == 2 else range(3), strict=True):
            _kernel(axes, ground, aim, axis)
            where = "" if axis is None else f"{_plane(ground, axis)} {aim.place[axis]}, "
            axes.set_title(f"{where}kernel at {_where(aim.place)}", color=PALE, fontsize=9)
    figure.suptitle(plain(title), color=PALE, fontsize=12)
    _points_legend(figure, ground, max(len(aim.start) for _, aim in rows))
    save(figure, path, DPI)


def plot_lengths(lengths: Mapping[str, Mapping[str, NDArray]], unit: str, path: str | Path) -> None:
    """Draw a histogram of displacements for each layer, with a line for each label.

    Args:
        lengths: by layer and label; a layer's first entry is that of all positions, which may be none in a thin image.

    Raises:
        InputError: the PNG cannot be written.
    """
    figure = Figure(figsize=(8.5, 2.1 * len(lengths) + 0.6), layout="constrained", facecolor="white")
    shown: dict[str, StepPatch] = {}
    for axes, (layer, labels) in zip(
        figure.subplots(len(lengths), 1, squeeze=False)[:, 0], lengths.items(), strict=True
    ):
        everything, *_ = labels.values()
        longest = np.percentile(everything, 99.5) if len(everything) else 0
        edges = np.linspace(0, max(longest, 1e-6) * 1.05, BINS + 1)
        for index, (label, found) in enumerate(labels.items()):
            if not len(found):
                continue
            shares = np.histogram(found, edges)[0] / len(found)
            if index == 0:
                shown[label] = axes.stairs(shares, edges, fill=True, color="#dfe2e8")
            else:
                color = ON_WHITE[(index - 1) % len(ON_WHITE)]
                shown[label] = axes.stairs(shares, edges, color=color, linewidth=1.5)
        axes.set_title(plain(layer), color=INK, fontsize=10, loc="left")
        axes.set_ylabel("share of points")
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0)
        if not len(everything):
            axes.set(xticks=[], yticks=[])
            told = "no kernel of this layer stands in the image"
            axes.text(0.5, 0.5, told, ha="center", va="center", color=INK, transform=axes.transAxes)
    axes.set_xlabel(f"displacement of a kernel point, {unit}")
    if shown:
        legend_below(figure, [*shown.values()], [plain(label) for label in shown], 7, fontsize=8)
    save(figure, path, DPI)


def plot_fields(ground: Ground, fields: Sequence[Field], path: str | Path) -> None:
    """Draw for each place the gradient of its logit by the image: as the network is, and with offsets of zero.

    Brightness is the logarithm of the gradient over three decades below its greatest value; circles hold 95 % of it.
    Of a volume, the slice across its last axis through the place.

    Raises:
        InputError: the PNG cannot be written.
    """
    dims = len(ground.spacing)
    axis = None if dims == 2 else 2
    figure = Figure(figsize=(10.4, 3.6 * len(fields) + 0.5), layout="constrained", facecolor=DARK)
    grid = figure.subplots(len(fields), 3, squeeze=False)
    for line, field in zip(grid, fields, strict=True):
        box = [(start, start + n) for start, n in zip(field.origin, field.as_is.shape, strict=True)]
        greatest = max(field.as_is.max(), field.still.max(), 1e-30)
        _image(line[0], ground, axis, field.place, box)
        _cross(line[0], ground, field.place, axis)
        maps = (("as it is", field.as_is, field.radius), ("all offsets zero", field.still, field.radius_still))
        for axes, (name, found, radius) in zip(line[1:], maps, strict=True):
            flat = found if axis is None else found.take(field.place[axis] - field.origin[axis], axis)
            shown = np.log10(np.maximum(flat / greatest, 1e-3))
            _flat(axes, shown, ground, axis, box, cmap="magma", vmin=-3, vmax=0)
            _frame(axes, ground, axis, box)
            _cross(axes, ground, field.place, axis)
            _circle(axes, ground, field.place, axis, radius)
            told = f"95 % within {radius:.1f} {ground.unit}" if np.isfinite(radius) else "no gradient"
            axes.set_title(f"{name}: {told}", color=PALE, fontsize=9)
        line[0].set_title(f"logit at {_where(field.place)}", color=PALE, fontsize=9)
    figure.suptitle(
        "What a logit depends on: gradient by the image, three decades of a log scale", color=PALE, fontsize=12
    )
    save(figure, path, DPI)


def _plane(ground: Ground, axis: int) -> str:
    """What slices across an axis are called."""
    return PLANES["LRPAIS".index(ground.codes[axis]) // 2 if ground.codes else axis]


def _where(place: Sequence[int]) -> str:
    return ", ".join(map(str, place))


def _plane_axes(dims: int, axis: int | None) -> tuple[int, int]:
    """The axes to the right and up; of 2D images columns and rows."""
    return (1, 0) if axis is None else tuple(other for other in range(dims) if other != axis)


def _mm(ground: Ground, positions: NDArray, axis: int | None) -> tuple[NDArray, NDArray]:
    """Positions (..., d) in voxels as right and up in mm."""
    right, up = _plane_axes(len(ground.spacing), axis)
    return tuple((positions[..., a] + 0.5) * ground.spacing[a] for a in (right, up))


def _flat(axes: Axes, plane: NDArray, ground: Ground, axis: int | None, box: Sequence[tuple[int, int]], **how) -> None:
    """A slice whose axes run as in the image, at its place in mm."""
    right, up = _plane_axes(len(ground.spacing), axis)
    extent = [end * ground.spacing[a] for a in (right, up) for end in box[a]]
    shown = plane if axis is None else np.swapaxes(plane, 0, 1)
    axes.imshow(shown, origin="lower", extent=extent, interpolation="nearest", **how)


def _image(axes: Axes, ground: Ground, axis: int | None, place: Sequence[int], box: Sequence[tuple[int, int]]) -> None:
    rgb = axis is None and len(ground.image) == 3
    picture = np.moveaxis(ground.image, 0, -1) if rgb else ground.image[0]
    low, high = np.percentile(picture, (0.5, 99.5))
    flat = picture if axis is None else picture.take(place[axis], axis)
    scaled = np.clip((flat - low) / max(high - low, 1e-8), 0, 1)
    whole = [(0, n) for n in ground.labels.shape]
    _flat(axes, scaled, ground, axis, whole, cmap="gray", vmin=0, vmax=1)
    labels = ground.labels if axis is None else ground.labels.take(place[axis], axis)
    right, up = _plane_axes(len(ground.spacing), axis)
    labels = labels if axis is None else labels.T
    x, y = ((np.arange(n) + 0.5) * ground.spacing[a] for n, a in zip(labels.shape[::-1], (right, up), strict=True))
    for _, color, values in _outlined(ground):
        mask = np.isin(labels, values)
        if mask.any() and min(mask.shape) > 1:
            axes.contour(x, y, mask.astype(float), levels=[0.5], colors=[color], linewidths=1.1)
    _frame(axes, ground, axis, box)
    if ground.codes:
        ends = [ground.codes[a] for a in (right, up)]
        across, down = ((OPPOSITE[end], end) for end in ends)
        left, top, bottom = across[0], down[axis is not None], down[axis is None]
        draw_letters(axes, {"left": left, "right": across[1], "top": top, "bottom": bottom}, PALE, DARK)


def _outlined(ground: Ground) -> Iterator[tuple[str, str, list[int]]]:
    """Names with their colours and class indices, which those of one region share."""
    for index, name in enumerate(dict.fromkeys(ground.names.values()), 1):
        yield name, ON_DARK[index % len(ON_DARK)], [value for value, other in ground.names.items() if other == name]


def _frame(axes: Axes, ground: Ground, axis: int | None, box: Sequence[tuple[float, float]]) -> None:
    right, up = _plane_axes(len(ground.spacing), axis)
    axes.set_xlim(*(end * ground.spacing[right] for end in box[right]))
    bottom, top = (end * ground.spacing[up] for end in box[up])
    axes.set_ylim(*((top, bottom) if axis is None else (bottom, top)))
    axes.set(xticks=[], yticks=[], facecolor="#0b0c0f", aspect="equal")
    axes.spines[:].set_color("#3a3f4a")


def _drift(axes: Axes, ground: Ground, aim: Aim, axis: int | None) -> None:
    """Arrows from where kernels stand to where the image draws their points on average, over the slice of the place."""
    homes, drift = aim.homes, aim.drift
    if axis is not None:
        index = int(
            np.abs(homes[axis].mean(tuple(a for a in range(len(aim.place)) if a != axis)) - aim.place[axis]).argmin()
        )
        homes, drift = homes.take(index, axis + 1), drift.take(index, axis + 1)
    every = max(1, -(-max(homes.shape[1:]) // ARROWS))
    homes, drift = (each[:, ::every, ::every] for each in (homes, drift))
    first, last = homes.reshape(len(homes), -1).min(1), homes.reshape(len(homes), -1).max(1)
    steps = aim.stride
    box = [(a - s / 2 + 0.5, b + s / 2 + 0.5) for a, b, s in zip(first, last, steps, strict=True)]
    box = [(max(a, 0), min(b, n)) for (a, b), n in zip(box, ground.labels.shape, strict=True)]
    _image(axes, ground, axis, aim.place, box)
    right, up = _plane_axes(len(ground.spacing), axis)
    x, y = _mm(ground, np.moveaxis(homes, 0, -1), axis)
    u, v = (drift[a] * ground.spacing[a] for a in (right, up))
    shown = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.005, "headwidth": 3.5}
    axes.quiver(x, y, u, v, color=MOVED[0], **shown)
    _cross(axes, ground, aim.place, axis)


def _kernel(axes: Axes, ground: Ground, aim: Aim, axis: int | None) -> None:
    both = np.concatenate([aim.start, aim.moved]).reshape(-1, len(aim.place))
    low, high = both.min(0) - np.array(aim.stride), both.max(0) + np.array(aim.stride)
    middle, half = (low + high) / 2, np.maximum((high - low) / 2, LEAST / 2)
    scaled = np.array(ground.spacing)
    half = np.max(half * scaled) / scaled
    box = [(m - h + 0.5, m + h + 0.5) for m, h in zip(middle, half, strict=True)]
    _image(axes, ground, axis, aim.place, box)
    for group, (start, moved) in enumerate(zip(aim.start, aim.moved, strict=True)):
        near, near_moved = (_near(aim, points, axis) for points in (start, moved))
        color = MOVED[group % len(MOVED)]
        size = _sizes(aim, group)
        ends = [np.stack(_mm(ground, each, axis), -1) for each in (start, moved)]
        for shown, alpha in ((~near_moved, FAINT), (near_moved, 1.0)):
            lines = np.stack([end[shown] for end in ends], 1)
            axes.add_collection(LineCollection(lines, colors=LINE, linewidths=0.7, alpha=0.55 * alpha))
            axes.scatter(*ends[1][shown].T, s=size[shown], color=color, alpha=alpha, linewidths=0, zorder=3)
        for shown, alpha in ((~near, FAINT), (near, 1.0)) if group == 0 else ():
            rings = {"s": 16, "facecolors": "none", "edgecolors": START, "linewidths": 0.8}
            axes.scatter(*ends[0][shown].T, alpha=alpha, zorder=2, **rings)
    _cross(axes, ground, aim.place, axis)


def _near(aim: Aim, points: NDArray, axis: int | None) -> NDArray:
    """Which points lie within half a voxel of the layer's map of the slice; in a 2D image all do."""
    if axis is None:
        return np.ones(len(points), bool)
    return np.abs(points[:, axis] - aim.place[axis]) <= aim.stride[axis] / 2


def _sizes(aim: Aim, group: int) -> NDArray:
    """Area of the dots: as large as the modulation."""
    if aim.weight is None:
        return np.full(aim.start.shape[1], 16.0)
    weight = np.abs(aim.weight[group])
    return 4 + 24 * weight / max(weight.max(), 1e-12)


def _cross(axes: Axes, ground: Ground, place: Sequence[int], axis: int | None) -> None:
    axes.plot(
        *_mm(ground, np.array(place, float), axis), "+", color="#ff3b3b", markersize=11, markeredgewidth=1.6, zorder=4
    )


def _circle(axes: Axes, ground: Ground, place: Sequence[int], axis: int | None, radius: float) -> None:
    if np.isfinite(radius):
        x, y = _mm(ground, np.array(place, float), axis)
        angle = np.linspace(0, 2 * np.pi, 120)
        axes.plot(x + radius * np.cos(angle), y + radius * np.sin(angle), color=PALE, linewidth=0.9, linestyle="dashed")


def _points_legend(figure: Figure, ground: Ground, groups: int) -> None:
    def dot(color: str, filled: bool = True) -> Line2D:
        face = color if filled else "none"
        return Line2D([], [], linestyle="none", marker="o", markersize=5, markerfacecolor=face, markeredgecolor=color)

    entries = [(dot(START, filled=False), "kernel point at rest")]
    for group in range(min(groups, len(MOVED))):
        entries.append((dot(MOVED[group]), "where it reads" if groups == 1 else f"where group {group + 1} reads"))
    if len(ground.spacing) == 3:
        faint = Line2D([], [], linestyle="none", marker="o", color=MOVED[0], alpha=FAINT)
        entries.append((faint, "faint: off the slice"))
    entries.append((Line2D([], [], linestyle="none", marker="+", color="#ff3b3b", markersize=9), "place"))
    for name, color, values in _outlined(ground):
        if np.isin(ground.labels, values).any():
            entries.append((Line2D([], [], color=color, linewidth=2), plain(name)))
    columns = 7 if len(ground.spacing) == 3 else 3
    legend_below(figure, *map(list, zip(*entries, strict=True)), columns, labelcolor=PALE, fontsize=9)

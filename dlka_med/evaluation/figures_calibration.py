"""A picture of how far probabilities can be believed."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from dlka_med.evaluation.drawing import save
from dlka_med.evaluation.figures import GREY, INK, NARROW, ON_WHITE
from dlka_med.metrics import Reliability


def plot_reliability(
    before: Reliability, after: Reliability, path: str | Path, size: tuple[float, float] = (9, 5.6)
) -> None:
    """Draw two reliability diagrams side by side (Guo et al., ICML 2017), below each the share of voxels per bin.

    Bars reach the accuracy of a bin; dots are its mean confidence, on the diagonal where both agree.

    Args:
        path: the picture: PNG, SVG or PDF, as its name ends.
        size: width and height in inches.

    Raises:
        InputError: the picture cannot be written.
    """
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    narrow = size[0] < NARROW
    upper, lower = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(4, 1))
    for column, (name, found) in enumerate({"before": before, "after": after}.items()):
        _diagram(upper[column], found)
        _shares(lower[column], found)
        told = ["no voxel"] if found.ece is None else [f"ECE {found.ece:.4f}", f"NLL {found.nll:.4f}"]
        title = "\n".join([name, *told]) if narrow else f"{name}: {', '.join(told)}"
        upper[column].set_title(title, color=INK, fontsize=11, loc="left")
        lower[column].set_xlabel("confidence")
    upper[0].set_ylabel("accuracy")
    lower[0].set_ylabel("share of voxels")
    if narrow:
        entries = upper[0].get_legend_handles_labels()
        figure.legend(*entries, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    else:
        upper[0].legend(loc="upper left", fontsize=8, frameon=False)
    for axes in (*upper, *lower):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
    figure.align_ylabels()
    save(figure, path)


def _diagram(axes: Axes, found: Reliability) -> None:
    confidence, accuracy = found.means
    left = np.arange(len(accuracy)) / len(accuracy)
    axes.bar(left, np.nan_to_num(accuracy), 1 / len(left), align="edge", color=ON_WHITE[1], edgecolor="white")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="dashed", linewidth=1, label="calibrated")
    axes.plot(confidence, accuracy, "o", color=ON_WHITE[5], markersize=4, clip_on=False, label="mean of a bin")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)


def _shares(axes: Axes, found: Reliability) -> None:
    held, width = found.voxels.nonzero()[0], 1 / len(found.voxels)
    shares = found.voxels[held] / max(found.total, 1)
    axes.set_ylim(1e-4, 1)
    axes.set_yscale("log")
    axes.bar(held * width, shares, width, align="edge", color=GREY, edgecolor="white")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    axes.yaxis.set_minor_formatter(NullFormatter())

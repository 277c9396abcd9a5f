"""A picture of how wrong voxels and uncertainty go together."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from dlka_med.evaluation.drawing import save
from dlka_med.evaluation.figures import GREY, ON_WHITE
from dlka_med.evaluation.uncertainty import Doubts

WIDTHS = (0.1, 0.2, 0.5)  # bits of a bin
MOST = 16  # bins
LEAST_SHOWN = 1e-6  # share of the voxels


def plot_uncertainty(found: Doubts, path: str | Path, size: tuple[float, float] = (9, 5.6)) -> None:
    """Draw the share of wrong voxels in bins of entropy, below it the share of all voxels that lie in each.

    Args:
        path: the picture: PNG, SVG or PDF, as its name ends.
        size: width and height in inches.

    Raises:
        InputError: the picture cannot be written.
    """
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.4))
    width, voxels, wrong = in_bins(found)
    left = width * np.arange(len(voxels))
    upper.bar(left, 100 * wrong / np.maximum(voxels, 1), width, align="edge", color=ON_WHITE[4], edgecolor="white")
    upper.set_ylabel("wrong voxels (%)")
    upper.set_ylim(bottom=0)
    shares = voxels / max(voxels.sum(), 1)
    lower.bar(left[voxels > 0], shares[voxels > 0], width, align="edge", color=GREY, edgecolor="white")
    lower.set_yscale("log")
    lower.set_ylim(max(LEAST_SHOWN, min(shares[voxels > 0], default=1) / 2), 1)
    lower.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    lower.yaxis.set_minor_formatter(NullFormatter())
    lower.set_ylabel("share of voxels")
    lower.set_xlabel("entropy (bit)")
    lower.set_xlim(0, width * len(voxels))
    lower.xaxis.set_major_locator(MaxNLocator(8, steps=(1, 2, 5, 10)))
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
    figure.align_ylabels()
    save(figure, path)


def in_bins(found: Doubts) -> tuple[float, NDArray[np.int64], NDArray[np.int64]]:
    """Width of a bin in bits, and all and wrong voxels of each; the last bin holds the largest entropy there is."""
    width = next((width for width in WIDTHS if found.largest <= MOST * width), WIDTHS[-1])
    count = int(np.ceil(found.largest / width - 1e-9))
    place = np.minimum((found.bits / width + 1e-9).astype(int), count - 1)
    return width, *(np.bincount(place, one, count).astype(np.int64) for one in (found.voxels, found.wrong))

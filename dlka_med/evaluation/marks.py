"""What a picture of a slice needs to be read alone: a scale bar, and letters for the directions of the body."""

import math
from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

ENDS = (("L", "R"), ("P", "A"), ("I", "S"))  # of an axis that runs to the right, front or top
LETTERS = {"left": (0.02, 0.5), "right": (0.98, 0.5), "bottom": (0.5, 0.02), "top": (0.5, 0.98)}
PLACES = {"left": ("left", "center"), "right": ("right", "center"), "bottom": ("center", "bottom")}
PLACES["top"] = ("center", "top")


def round_length(extent: float) -> float:
    """1, 2 or 5 times a power of ten: the longest that is at most a third of `extent`."""
    power = 10.0 ** math.floor(math.log10(extent / 3))
    return max(step * power for step in (1, 2, 5) if step * power <= extent / 3 * (1 + 1e-9))


def directions(axis: int) -> dict[str, str]:
    """The letter at each side of a slice across `axis` of an RAS volume, whose second axis runs up."""
    across, up = (ENDS[other] for other in range(3) if other != axis)
    return {"left": across[0], "right": across[1], "bottom": up[0], "top": up[1]}


def draw_marks(axes: Axes, width: float, height: float, unit: str, axis: int | None, color: str, dark: str) -> None:
    """Draw the scale bar at the bottom left, and, of a slice across `axis`, the letters.

    Args:
        width, height: of the slice, in `unit`.
        axis: None of a 2D image, of which nobody knows how it lies.
        dark: of a thin edge that keeps all this readable on bright tissue.
    """
    edge = [withStroke(linewidth=2.5, foreground=dark)]
    length, margin = round_length(width), 0.04 * width
    # Of a 2D image rows run down.
    foot = 0.05 * height if axes.get_ylim()[0] < axes.get_ylim()[1] else 0.95 * height
    bar = axes.plot([margin, margin + length], [foot, foot], color=color, linewidth=2, solid_capstyle="butt")
    bar[0].set_path_effects(edge)
    told = axes.annotate(
        f"{length:g} {unit}", (margin, foot), (0, 3), textcoords="offset points", color=color, fontsize=8, va="bottom"
    )
    told.set_path_effects(edge)
    draw_letters(axes, {} if axis is None else directions(axis), color, dark)


def draw_letters(axes: Axes, letters: Mapping[str, str], color: str, dark: str) -> None:
    """Draw a letter at each side, with a thin dark edge.

    Args:
        letters: by left, right, bottom and top.
    """
    edge = [withStroke(linewidth=2.5, foreground=dark)]
    for side, letter in letters.items():
        ha, va = PLACES[side]
        text = axes.text(
            *LETTERS[side],
            letter,
            transform=axes.transAxes,
            color=color,
            fontsize=9,
            fontweight="bold",
            ha=ha,
            va=va,
            zorder=10,
        )
        text.set_path_effects(edge)

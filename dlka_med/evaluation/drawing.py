"""Pictures as files: PNG, SVG or PDF, with the text that was meant."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from matplotlib import font_manager, rc_context
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.text import Text

from dlka_med.files import whole_file

FORMATS = (".png", ".svg", ".pdf")
# Text stays text, and the same picture is the same file.
TEXT = {"svg.fonttype": "none", "svg.hashsalt": "dlka_med", "pdf.fonttype": 42}
MISSING = r"Glyph \d+ .* missing from font|Matplotlib currently does not support"
BOXES = "Last Resort"  # comes with matplotlib and has a box for every character, which tells less than its code
ROOM = 0.7  # inches of a figure that a legend below its plots may take without making it higher
UNDATED = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}


def plain(text: object) -> str:
    """Text as it is written, also where matplotlib would take it for a formula."""
    return str(text).replace("$", r"\$")


def named(artists: Iterable[Artist]) -> tuple[list[Artist], list[str]]:
    """What a legend is made of; by itself it leaves out names that begin with an underscore."""
    artists = list(artists)
    return artists, [str(artist.get_label()) for artist in artists]


def legend_below(figure: Figure, artists: Sequence[Artist], names: Sequence[str], columns: int, **style: Any) -> None:
    """A legend below all plots, in at most so many columns as fit side by side; of many names the figure grows."""
    for count in range(min(columns, len(names)), 0, -1):
        legend = figure.legend(artists, names, loc="outside lower center", ncols=count, frameon=False, **style)
        with _unwarned():
            box = legend.get_window_extent()
        if box.width <= figure.bbox.width or count == 1:
            figure.set_figheight(figure.get_figheight() + max(0, box.height / figure.dpi - ROOM))
            return
        legend.remove()


def save(figure: Figure, path: str | Path, dpi: int = 130) -> None:
    """Write a picture in the format that its name ends with, PNG for any other; whole or not at all.

    Characters that the usual font lacks are drawn in a font of the system, or as their codes where none has them; in
    SVG, which is drawn elsewhere, they stay as they are.

    Raises:
        WriteError: the folder cannot be written to, or the disk is full.
    """
    ending = Path(path).suffix.lower()
    kind = ending[1:] if ending in FORMATS else "png"
    if kind != "svg":
        _make_readable(figure)
    with whole_file(path) as temporary, rc_context(TEXT), _unwarned():
        figure.savefig(temporary, dpi=dpi, format=kind, metadata=UNDATED[kind])


@contextmanager
def _unwarned() -> Iterator[None]:
    """Nothing is said of characters that the usual font lacks."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", MISSING, UserWarning)
        yield


def _make_readable(figure: Figure) -> None:
    for text in figure.findobj(lambda one: isinstance(one, Text) and not one.get_text().isascii()):
        written, usual = text.get_text(), _characters(font_manager.findfont(text.get_fontproperties()))
        missing = sorted(set(written) - {"\n"} - usual)
        names, without = _fonts_with("".join(missing))
        text.set_fontfamily([*text.get_fontfamily(), *names])
        text.set_text("".join(_code(one) if one in without else one for one in written))


@lru_cache
def _fonts_with(characters: str) -> tuple[list[str], set[str]]:
    """Fonts of the system that have them, as few as come first, and those that none has."""
    names, without = [], set(characters)
    for font in font_manager.fontManager.ttflist if characters else ():
        # Of a family the plain font is drawn, whatever its bold one has. A name alone would be read as a pattern.
        family = font_manager.FontProperties(family=[font.name])
        if font.name.startswith(BOXES) or not without & (found := _characters(font.fname)):
            continue
        if font_manager.findfont(family) == font.fname:
            names.append(font.name)
            without -= found
        if not without:
            break
    return names, without


@lru_cache
def _characters(file: str) -> frozenset[str]:
    """That a font has; none where its file is gone or damaged."""
    try:
        return frozenset(map(chr, font_manager.get_font(file).get_charmap()))
    except (OSError, RuntimeError):
        return frozenset()


def _code(character: str) -> str:
    return character.encode("ascii", "backslashreplace").decode("ascii")

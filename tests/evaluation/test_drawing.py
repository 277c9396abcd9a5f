import warnings
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.image import imread

from dlka_med.evaluation import drawing
from dlka_med.evaluation.drawing import legend_below, plain, save

UNKNOWN = "\U0010abcd"  # for private use: in no font


def figure(text):
    drawn = Figure(figsize=(2, 1))
    drawn.text(0.1, 0.5, plain(text))
    return drawn


@pytest.mark.parametrize("text", ["$x$", r"$\foo$", r"a\$b$", "5 $ and 6 $", "<b>&"])
def test_text_is_what_was_meant(tmp_path, text):
    save(figure(text), tmp_path / "x.svg")
    written = (tmp_path / "x.svg").read_text()
    assert f">{text.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')}</text>" in written


@pytest.mark.parametrize(
    ("name", "head"), [("x.PNG", b"\x89PNG"), ("x.svg", b"<?xml"), ("x.pdf", b"%PDF"), ("x", b"\x89PNG")]
)
def test_the_name_says_the_format(tmp_path, name, head):
    save(figure("x"), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(head)


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_the_same_picture_is_the_same_file(tmp_path, ending):
    for name in ("a", "b"):
        save(figure("x"), tmp_path / f"{name}.{ending}")
    assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()


def test_settings_end_with_the_file(tmp_path):
    before = matplotlib.rcParams["svg.fonttype"]
    save(figure("x"), tmp_path / "x.svg")
    assert matplotlib.rcParams["svg.fonttype"] == before


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_characters_that_no_font_has_are_written_as_their_codes(tmp_path, ending):
    """In SVG they stay, for whoever draws it; nothing is warned of."""
    drawn = figure(f"a{UNKNOWN} $x$")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        save(drawn, tmp_path / f"x.{ending}")
    assert not seen
    wanted = f"a{UNKNOWN}" if ending == "svg" else r"a\U0010abcd"
    assert drawn.texts[0].get_text() == plain(f"{wanted} $x$")
    if ending == "svg":
        assert f">{wanted} $x$</text>" in (tmp_path / "x.svg").read_text(encoding="utf-8")


def test_characters_of_another_font_are_drawn_in_it(tmp_path, monkeypatch):
    """An arc is in DejaVu Sans Mono, which comes with matplotlib, but not in DejaVu Sans."""
    drawn = figure("a\u2312")
    usual, other = (font_manager.findfont(name) for name in ("DejaVu Sans", "DejaVu Sans Mono"))
    assert "\u2312" not in drawing._characters(usual)
    known = [font for font in font_manager.fontManager.ttflist if font.fname in (usual, other)]
    gone = font_manager.FontEntry(fname=str(tmp_path / "gone.ttf"), name="Gone")
    hyphened = replace(next(font for font in known if font.fname == other), name="Mono-1", weight=400)
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [gone, hyphened, *known])
    drawing._fonts_with.cache_clear()
    save(drawn, tmp_path / "x.png")
    drawing._fonts_with.cache_clear()
    assert drawn.texts[0].get_text() == "a\u2312"
    assert drawn.texts[0].get_fontfamily() == ["sans-serif", "Mono-1"]
    directly = Figure(figsize=(2, 1))
    directly.text(0.1, 0.5, "a\u2312", family=["DejaVu Sans", "DejaVu Sans Mono"])
    save(directly, tmp_path / "y.png")
    assert np.array_equal(imread(tmp_path / "x.png"), imread(tmp_path / "y.png"))


@pytest.mark.parametrize("count", [3, 30, 120])
@pytest.mark.parametrize("name", ["ab", "superior_frontal_gyrus", UNKNOWN])
def test_a_legend_of_any_length_lies_in_the_picture_below_its_plots(count, name):
    """And with few names the picture is as high as it was asked to be; nothing is warned of."""
    drawn = Figure(figsize=(4.2, 3.4), layout="constrained")
    axes = drawn.subplots()
    lines = [axes.plot([0, 1], [0, at])[0] for at in range(count)]
    legend_below(drawn, lines, [f"{name}_{at}" for at in range(count)], 3, fontsize=8)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", drawing.MISSING)
        drawn.draw_without_rendering()
        (legend,) = drawn.legends
        box = legend.get_window_extent()
    assert len(legend.get_texts()) == count
    assert drawn.bbox.x0 <= box.x0 < box.x1 <= drawn.bbox.x1
    assert drawn.bbox.y0 <= box.y0 < box.y1 <= axes.get_tightbbox().y0
    assert axes.bbox.height > 1.7 * drawn.dpi
    assert (drawn.get_figheight() == 3.4) == (count == 3)

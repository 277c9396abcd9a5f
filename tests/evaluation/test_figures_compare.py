"""The picture of a comparison."""

import numpy as np
import pytest
from matplotlib.image import imread

from dlka_med.evaluation import figures_compare
from dlka_med.evaluation.drawing import plain
from dlka_med.evaluation.figures import ON_WHITE
from dlka_med.evaluation.figures_compare import Point, plot_comparison, plot_variants

POINTS = [
    Point("dlka_net_3d", 0.42, 0.893, (0.871, 0.911), (0.889, 0.893, 0.897)),
    Point("unet", 0.11, 0.872, (0.85, 0.89), (0.869, 0.875)),
    Point("mednext", 1.3, 0.88),
]


def pixels(path, color):
    wanted = [int(color[start : start + 2], 16) for start in (1, 3, 5)]
    picture = np.rint(imread(path)[..., :3] * 255).astype(int)
    return np.nonzero(np.abs(picture - wanted).max(-1) <= 3)


def test_slower_is_to_the_right_and_better_above(tmp_path):
    plot_comparison(POINTS, tmp_path / "x.png")
    (y, x), (y_unet, x_unet), (y_slow, x_slow) = (pixels(tmp_path / "x.png", color) for color in ON_WHITE[:3])
    assert x_unet.mean() < x.mean() < x_slow.mean()
    assert y.mean() < y_slow.mean() < y_unet.mean()


def test_nothing_to_show_is_an_empty_picture(tmp_path):
    plot_comparison([], tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 0


def test_variants_are_rows_with_the_better_to_the_right(tmp_path):
    plot_variants(POINTS, tmp_path / "x.png")
    (y, x), (y_others, x_others) = (pixels(tmp_path / "x.png", color) for color in ON_WHITE[:2])
    assert np.median(y) < y_others.min()
    assert x_others.max() < np.median(x)
    plot_variants([], tmp_path / "nothing.png")
    assert (tmp_path / "nothing.png").stat().st_size > 0


NEAR = [  # of a comparison on nuclei
    Point("dlka_unet", 0.456, 0.9324, (0.9026, 0.9581), (0.9319, 0.9328)),
    Point("unet", 0.263, 0.9305, (0.9014, 0.9546), (0.9307, 0.9303)),
    Point("dynunet", 0.526, 0.9290, (0.8976, 0.9556), (0.9287, 0.9294)),
]
CROWDED = [Point(f"net_{place}", 0.1 * 1.3**place, 0.87, (0.85, 0.89), (0.87,)) for place in range(4)]
FAR = [Point("unet", 0.01, 0.87, (0.85, 0.89)), Point("a_network_of_a_rather_long_name", 1, 0.87, (0.85, 0.89))]


CLOSE = [Point(f"net_{place} $", 0.4 * 1.04**place, 0.93, (0.9, 0.95), (0.929, 0.931)) for place in range(8)]
SIZES = [(4.2, 3.6), (8, 5)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [6, 8])
def test_names_that_would_meet_something_stand_in_a_legend(tmp_path, monkeypatch, count, size):
    """Each with the dot that it names; there are fewer colours than networks."""
    figures = []
    monkeypatch.setattr(figures_compare, "save", lambda figure, path: figures.append(figure))
    plot_comparison(CLOSE[:count], tmp_path / "x.png", size)
    (figure,) = figures
    figure.draw_without_rendering()
    (axes,), (legend,) = figure.axes, figure.legends
    assert not axes.texts
    assert [text.get_text() for text in legend.get_texts()] == [plain(point.name) for point in CLOSE[:count]]
    dots = [line for line in axes.lines if line.get_markersize() == 9]
    kinds = [(dot.get_color(), dot.get_marker()) for dot in dots]
    assert len(set(kinds)) == count
    assert [(handle.get_color(), handle.get_marker()) for handle in legend.legend_handles] == kinds
    assert [dot.get_xdata()[0] for dot in dots] == [point.seconds for point in CLOSE[:count]]
    box = legend.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert box.y1 <= axes.bbox.y0


@pytest.mark.parametrize("plot", [plot_comparison, plot_variants])
def test_names_are_no_formulas(tmp_path, plot):
    plot([Point(r"$\foo$", 0.4, 0.9)], tmp_path / "x.svg")
    assert r">$\foo$" in (tmp_path / "x.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("points", [POINTS, NEAR, CROWDED, FAR])
def test_names_meet_neither_bars_nor_dots_nor_each_other(tmp_path, monkeypatch, points, size):
    """By the ends of all lines in pixels."""
    figures = []
    monkeypatch.setattr(figures_compare, "save", lambda figure, path: figures.append(figure))
    plot_comparison(points, tmp_path / "x.png", size)
    (figure,) = figures
    figure.draw_without_rendering()
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == [one.name for one in sorted(points, key=lambda one: one.seconds)]
    boxes = [text.get_window_extent() for text in axes.texts]
    for place, box in enumerate(boxes):
        assert axes.bbox.x0 <= box.x0 < box.x1 <= axes.bbox.x1
        assert axes.bbox.y0 <= box.y0 < box.y1 <= axes.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[:place])
        for line in (one for one in axes.lines if len(one.get_xdata())):
            (x, *_), y = axes.transData.transform(line.get_xydata()).T
            assert not (box.x0 <= x <= box.x1 and y.min() <= box.y1 and y.max() >= box.y0)
    middles = [(box.x0 + box.x1) / 2 for box in boxes]
    assert middles == sorted(middles)

"""The picture of a comparison."""

import numpy as np
from matplotlib.image import imread

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

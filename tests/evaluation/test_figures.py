import csv
import math

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.image import imread

from dlka_med.errors import InputError
from dlka_med.evaluation.figures import Panel, contact_sheet, overlay, plot_curve, scaled, series, window_of

LABELS = {"background": 0, "front": 1, "back": 2}
ORANGE, BLUE = (0xE6, 0x9F, 0x00), (0x56, 0xB4, 0xE9)


def pixels(path, color):
    """How many pixels of the PNG have that colour."""
    picture = np.rint(imread(path)[..., :3] * 255).astype(int)
    return int((np.abs(picture - color).max(-1) <= 3).sum())


def case(shape):
    image = np.random.default_rng(0).normal(size=shape)
    reference = np.zeros(shape, np.uint8)
    reference[2:5, 4:-2, ...] = 1
    reference[5:-1, 4:-2, ...] = 2
    return image, reference


def rows(count):
    return [
        {"epoch": e, "loss": 1 / e, "learning_rate": 0.01 / e, "dice": 1 - 1 / e, "dice front": 0.5}
        for e in range(1, count + 1)
    ]


@pytest.mark.parametrize("shape", [(20, 15), (12, 20, 9)])
def test_an_overlay_shows_both_maps(tmp_path, shape):
    image, reference = case(shape)
    spacing = (1.0, 1.0, 2.5)[: len(shape)]
    overlay(image, reference, reference, LABELS, tmp_path / "both.png", spacing=spacing, title="case")
    overlay(image, reference, np.zeros_like(reference), LABELS, tmp_path / "one.png", spacing=spacing)
    overlay(image, np.where(reference == 2, 0, reference), None, LABELS, tmp_path / "front.png")
    assert pixels(tmp_path / "both.png", ORANGE) > 1.5 * pixels(tmp_path / "one.png", ORANGE)
    assert pixels(tmp_path / "one.png", BLUE) > 1.5 * pixels(tmp_path / "front.png", BLUE) > 0


def test_a_2d_image_stands_upright(tmp_path):
    """Rows run down and columns to the right: the mark at the top right of the array is there in the picture."""
    label = np.zeros((30, 60), np.uint8)
    label[2:8, 44:58] = 1
    overlay(np.random.default_rng(0).random((3, 30, 60)), label, None, LABELS, tmp_path / "x.png")
    picture = np.rint(imread(tmp_path / "x.png")[..., :3] * 255).astype(int)
    rows, columns = np.nonzero(np.abs(picture - ORANGE).max(-1) <= 3)
    outline = rows < 0.8 * len(picture)  # the legend is below
    assert np.median(columns[outline]) > 0.7 * picture.shape[1]
    assert np.median(rows[outline]) < 0.35 * len(picture)


def test_the_aspect_is_that_of_millimetres(tmp_path):
    """Twice as many voxels of half the size give the same picture."""
    image, reference = case((12, 20, 9))
    overlay(image, reference, None, LABELS, tmp_path / "coarse.png", spacing=(1, 1, 3))
    thin = (image.repeat(2, 2), reference.repeat(2, 2))
    overlay(*thin, None, LABELS, tmp_path / "thin.png", spacing=(1, 1, 1.5))
    overlay(*thin, None, LABELS, tmp_path / "wrong.png", spacing=(1, 1, 3))
    assert imread(tmp_path / "coarse.png").shape == imread(tmp_path / "thin.png").shape
    assert imread(tmp_path / "coarse.png").shape != imread(tmp_path / "wrong.png").shape


@pytest.mark.parametrize(
    ("image", "reference"),
    [
        (np.random.default_rng(0).random((3, 16, 18)), np.ones((16, 18), np.uint8)),
        (np.zeros((2, 8, 9, 7)), np.ones((8, 9, 7), np.uint8)),
        (np.full((8, 9, 7), np.nan), np.zeros((8, 9, 7), np.uint8)),
        (np.arange(504).reshape(8, 9, 7), None),
    ],
    ids=["rgb", "channels", "nan", "no reference"],
)
def test_unusual_images_are_drawn(tmp_path, image, reference):
    overlay(image, reference, reference, {f"l{i}": i for i in range(20)}, tmp_path / "x.png")
    assert imread(tmp_path / "x.png").size


def test_a_contact_sheet_has_a_column_per_case(tmp_path):
    panels = [Panel(f"case {i}", *case((12, 14, 9)), spacing=(1, 1, 3)) for i in range(3)]
    contact_sheet(panels[:1], LABELS, tmp_path / "one.png")
    contact_sheet(panels, LABELS, tmp_path / "three.png")
    assert imread(tmp_path / "three.png").shape[1] > 2 * imread(tmp_path / "one.png").shape[1]
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([], LABELS, tmp_path / "none.png")


def test_shapes_that_do_not_fit_are_named(tmp_path):
    image, reference = case((12, 14, 9))
    with pytest.raises(ValueError, match=r"\(12, 14, 9\)"):
        overlay(image, reference[1:], None, LABELS, tmp_path / "x.png")
    with pytest.raises(ValueError, match="3 positive spacings"):
        overlay(image, reference, None, LABELS, tmp_path / "x.png", spacing=(1, 1))
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("count", [0, 1, 3, 60])
def test_a_curve_of_any_length_is_drawn(tmp_path, count):
    plot_curve(rows(count), tmp_path / "curve.png")
    assert pixels(tmp_path / "curve.png", (0x00, 0x72, 0xB2)) > (20 if count else -1)


def test_a_curve_whose_learning_rate_is_nothing_is_drawn(tmp_path):
    plot_curve([{"epoch": 1, "loss": 0.5, "learning_rate": 0.0}], tmp_path / "curve.svg")
    assert "learning rate" in (tmp_path / "curve.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize("size", [(9, 6.2), (4.2, 5.4)])
def test_the_legend_of_a_curve_has_every_label(tmp_path, size):
    table = [{"epoch": 1, "loss": 0.5, "dice": 0.5, "dice _front": 0.4, "dice back": 0.6}]
    plot_curve(table, tmp_path / "x.svg", size)
    text = (tmp_path / "x.svg").read_text(encoding="utf-8")
    assert all(text.count(f">{name}</text>") == 1 for name in ("_front", "back", "mean", "best 0.500"))


def test_a_curve_survives_gaps_and_nan_and_comes_from_csv_alike(tmp_path):
    table = rows(9)
    table[3] = {"epoch": 4, "loss": math.nan}
    table[5]["loss"] = math.inf
    plot_curve(table, tmp_path / "rows.png")
    with (tmp_path / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    plot_curve(tmp_path / "metrics.csv", tmp_path / "csv.png")
    np.testing.assert_array_equal(imread(tmp_path / "rows.png"), imread(tmp_path / "csv.png"))
    with pytest.raises(InputError, match=r"missing\.csv"):
        plot_curve(tmp_path / "missing.csv", tmp_path / "x.png")
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("1,2,3,4,5,6,7,8,9\n")
    with pytest.raises(InputError, match=rf"metrics\.csv is damaged: its row {len(table) + 1} has more cells"):
        plot_curve(tmp_path / "metrics.csv", tmp_path / "x.png")


def test_series_keeps_what_is_finite():
    table = [{"epoch": 2, "a": "0.5"}, {"epoch": 3, "a": ""}, {"epoch": 4}, {"a": math.nan}, {"a": 1}]
    assert series(table, "a") == ([2, 5], [0.5, 1])


def test_greys_that_are_not_finite_are_black():
    picture = np.array([np.nan, np.inf, -np.inf, 1.0, 3.0])
    assert window_of(picture) == pytest.approx((1.01, 2.99))
    assert scaled(picture, (1.0, 3.0)).tolist() == [0, 0, 0, 0, 1]


def test_no_figure_stays_open(tmp_path):
    plot_curve(rows(2), tmp_path / "curve.png")
    assert pyplot.get_fignums() == []


def test_the_slice_shows_both_labels_where_one_can(tmp_path):
    """The largest slice of one label alone is passed over for one with both."""
    image, reference = np.zeros((10, 10, 10)), np.zeros((10, 10, 10), np.uint8)
    reference[2:9, 2:9, 2] = 1
    reference[2:5, 2:8, 5], reference[5:8, 2:8, 5] = 1, 2
    overlay(image, reference, None, LABELS, tmp_path / "x.png")
    contact_sheet([Panel("x", image, reference)], LABELS, tmp_path / "y.png")
    assert pixels(tmp_path / "y.png", BLUE) > 500

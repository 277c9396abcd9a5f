import re

import numpy as np
import pytest

from dlka_med.evaluation import figures_scores
from dlka_med.evaluation.drawing import plain
from dlka_med.evaluation.figures_scores import (
    limits_of_agreement,
    plot_boxes,
    plot_courses,
    plot_differences,
    plot_volumes,
)

NAMES = ("front", "a name that is much longer than a plot has room for", r"_$\foo$")


@pytest.fixture
def drawn(monkeypatch):
    """Figures in the order in which they are saved."""
    found = []
    save = figures_scores.save
    monkeypatch.setattr(figures_scores, "save", lambda figure, path: (found.append(figure), save(figure, path)))
    return found


def dots(axes):
    return [line.get_xdata() for line in axes.lines if line.get_marker() == "o"]


def test_a_box_is_that_of_the_quartiles(tmp_path, drawn):
    values = np.random.default_rng(0).normal(size=(3, 31))
    values[1, :] = np.nan
    values[0, 3] = 99
    plot_boxes(dict(zip(NAMES, values, strict=True)), "Dice", tmp_path / "x.svg")
    (axes,) = drawn[0].axes
    assert len(dots(axes)) == 2
    boxes = [patch.get_bbox() for patch in axes.patches]
    for box, row, known in zip(boxes, (0, 2), (values[0], values[2]), strict=True):
        assert (box.x0, box.x1) == pytest.approx(tuple(np.quantile(known, (0.25, 0.75))))
        assert box.y0 < row < box.y1
    whiskers = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 2]
    assert max(np.max(ends) for ends in whiskers) < 99
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first on top


@pytest.mark.parametrize("size", [1, 12])
def test_many_equal_values_do_not_lie_on_the_axis(tmp_path, drawn, size):
    """The box, the median and the dots of a perfect HD95 stand apart from the spine."""
    plot_boxes({"front": np.ones(size), "back": np.array([1.0] * 8 + [2, 4])}, "HD95 (mm)", tmp_path / "x.svg")
    low, high = drawn[0].axes[0].get_xlim()
    assert low < 1 - 0.02 * (4 - 1)
    assert high > 4


def test_limits_of_agreement_are_those_of_bland_and_altman():
    errors = np.array([1.0, 2.0, 4.0])
    assert limits_of_agreement(errors) == pytest.approx((7 / 3 - 1.96 * 1.5275252, 7 / 3 + 1.96 * 1.5275252))
    assert limits_of_agreement(errors[:1]) is None


def test_volumes_lie_at_their_mean_and_their_error(tmp_path, drawn):
    expected, found = np.array([10.0, 20.0]), np.array([12.0, 19.0])
    plot_volumes({"front": (expected, found), NAMES[2]: (expected, expected)}, "ml", tmp_path / "x.svg")
    first = drawn[0].axes[0].lines[0]
    assert first.get_xdata().tolist() == [11, 19.5]
    assert first.get_ydata().tolist() == [2, -1]
    level = {round(float(line.get_ydata()[0]), 6) for line in drawn[0].axes[0].lines[2:]}
    assert {0.0, 0.25} <= level
    told = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert told == ["front", plain(NAMES[2]), "mean error", "limits of agreement"]


def test_differences_show_cases_mean_and_interval(tmp_path, drawn):
    plot_differences(
        {"front": (np.array([1.0, np.nan, 3.0]), (0.5, 3.5)), "none": (np.array([]), None)}, "x", tmp_path / "x.svg"
    )
    axes = drawn[0].axes[0]
    assert dots(axes)[0].tolist() == [1, 3]
    assert any(list(line.get_xdata()) == [0.5, 3.5] for line in axes.lines)
    assert any(line.get_marker() == "D" and line.get_xdata()[0] == 2 for line in axes.lines)


def test_courses_have_a_line_each(tmp_path, drawn):
    rows = [{"epoch": "1", "loss": "2", "dice": ""}, {"epoch": "2", "loss": "1", "dice": "0.5"}]
    plot_courses({"fold 0": rows, "fold 1": rows[:1]}, tmp_path / "x.svg")
    loss, dice = drawn[0].axes
    assert [list(line.get_ydata()) for line in loss.lines] == [[2, 1], [2]]
    assert [list(line.get_ydata()) for line in dice.lines] == [[0.5], []]


def test_long_names_are_cut(tmp_path):
    plot_boxes({NAMES[1]: np.arange(3.0)}, "Dice", tmp_path / "x.svg")
    assert re.search(r">a name that\.\.\.s room for<", (tmp_path / "x.svg").read_text())

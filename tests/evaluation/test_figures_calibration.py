"""The picture of a calibration."""

import numpy as np
import pytest
from matplotlib.image import imread

from dlka_med.evaluation import figures_calibration
from dlka_med.evaluation.figures import ON_WHITE
from dlka_med.evaluation.figures_calibration import plot_reliability
from dlka_med.metrics import Reliability


def of(confidence, right):
    """A hundred voxels of one confidence, so many of which are right."""
    probabilities = np.tile([[1 - confidence], [confidence]], 100)
    return Reliability.of(probabilities, (np.arange(100) < right).astype(int), target=1)


def dots(path):
    """Row and column of the dots in the left and in the right diagram."""
    wanted = [int(ON_WHITE[5][start : start + 2], 16) for start in (1, 3, 5)]
    rows, columns = np.nonzero(np.abs(np.rint(imread(path)[..., :3] * 255) - wanted).max(-1) <= 3)
    in_legend = (rows < 100) & (columns < 300)
    rows, columns = rows[~in_legend], columns[~in_legend]
    middle = imread(path).shape[1] // 2
    return [(rows[half].mean(), columns[half].mean()) for half in (columns < middle, columns > middle)]


def test_better_calibrated_is_higher_and_surer_is_to_the_right(tmp_path):
    plot_reliability(of(0.9, 30), of(0.6, 60), tmp_path / "x.png")
    (row, column), (other_row, other_column) = dots(tmp_path / "x.png")
    assert other_row < row
    width = imread(tmp_path / "x.png").shape[1]
    assert other_column - width / 2 < column


def test_no_voxel_is_an_empty_picture(tmp_path):
    plot_reliability(Reliability.empty(), Reliability.empty(), tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 0


@pytest.mark.parametrize("size", [(4.2, 4.2), (9, 5.6)])
def test_titles_are_whole_and_apart(tmp_path, monkeypatch, size):
    figures = []
    monkeypatch.setattr(figures_calibration, "save", lambda figure, path: figures.append(figure))
    plot_reliability(of(0.9, 30), of(0.6, 60), tmp_path / "x.png", size)
    (figure,) = figures
    figure.draw_without_rendering()
    left, right = (axes._left_title.get_window_extent() for axes in figure.axes[:2])
    assert left.x1 < right.x0
    assert right.x1 <= figure.bbox.x1
    assert left.y1 <= figure.bbox.y1
    told = figure.axes[0].get_title(loc="left")
    assert "before" in told
    assert "ECE 0.6000" in told
    assert "NLL 1.6" in told

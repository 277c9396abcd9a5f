"""Pictures of many labels: all names stand in the picture, and something is left of what they name."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from dlka_med.evaluation.figures import Panel, contact_sheet, overlay, plot_curve
from dlka_med.evaluation.figures_deformation import plot_lengths, plot_points
from dlka_med.evaluation.figures_scores import WIDTH, plot_boxes, plot_courses, plot_volumes

from .test_figures_deformation import aim, ground

NAMES = [f"_superior_gyrus_{at}" for at in range(60)]
MAP = (np.arange(12 * 10 * 8).reshape(12, 10, 8) % 61).astype(np.uint8)
LABELS = {name: value for value, name in enumerate(NAMES, 1)}
ROWS = [{"epoch": 1, "loss": 1.0, "dice": 0.5, "learning_rate": 0.1} | {f"dice {name}": 0.5 for name in NAMES}]
GROUND = replace(ground(3), labels=np.resize(MAP, ground(3).labels.shape), names=dict(enumerate(NAMES, 1)))

PLOTS = {
    "curve": lambda path: plot_curve(ROWS, path),
    "narrow curve": lambda path: plot_curve(ROWS, path, (WIDTH, 5.4)),
    "courses": lambda path: plot_courses(dict.fromkeys(NAMES, ROWS), path),
    "volumes": lambda path: plot_volumes({name: (np.ones(2), np.ones(2)) for name in NAMES}, "ml", path),
    "overlay": lambda path: overlay(MAP.astype(float), MAP, None, LABELS, path),
    "sheet": lambda path: contact_sheet([Panel("x", MAP.astype(float), MAP, MAP)], LABELS, path),
    "points": lambda path: plot_points(GROUND, {"x": [aim(3)]}, "title", path),
    "lengths": lambda path: plot_lengths({"x": dict.fromkeys(["all", *NAMES], np.arange(9.0))}, "mm", path),
}


@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
def test_all_names_stand_in_the_picture(tmp_path, monkeypatch, plot):
    figures, write = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **how: (figures.append(self), write(self, *args, **how)))
    plot(tmp_path / "x.svg")
    (figure,) = figures
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} >= set(NAMES)
    box, whole = legend.get_window_extent(), figure.bbox
    assert 0 <= box.x0 < box.x1 <= whole.x1
    assert 0 <= box.y0 < box.y1 <= whole.y1
    assert all(axes.bbox.y0 >= box.y1 for axes in figure.axes)
    assert all(min(axes.bbox.width, axes.bbox.height) > 0.4 * figure.dpi for axes in figure.axes)


def test_names_that_begin_alike_are_told_apart_beside_boxes(tmp_path):
    names = [f"superior_frontal_gyrus_{side}" for side in ("left", "right")]
    plot_boxes(dict.fromkeys(names, np.ones(3)), "Dice", tmp_path / "x.svg")
    text = (tmp_path / "x.svg").read_text()
    assert text.count(">superior_fr...gyrus_left<") == text.count(">superior_fr...yrus_right<") == 1

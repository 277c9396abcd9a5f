import re

import numpy as np
import pytest
from matplotlib.path import Path as Polygon
from scipy import ndimage

from dlka_med.report.outlines import outline


def loops(path):
    """Corners of each loop in pixels, read as SVG says."""
    found = []
    for start, rest in re.findall(r"M(-?\d+ -?\d+)l([^z]*)z", path):
        steps = np.array(re.findall(r"-?\d+", rest), int).reshape(-1, 2)
        first = np.array(start.split(), int)
        found.append(np.vstack([first, first + np.cumsum(steps, axis=0)]) / 2)
    return found


def filled(path, shape):
    """Pixels whose middle lies in an odd number of loops."""
    rows, columns = np.indices(shape)
    middles = np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], axis=1)
    inside = sum((Polygon(loop).contains_points(middles) for loop in loops(path)), np.zeros(rows.size, int))
    return inside.reshape(shape) % 2 == 1


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(1, 1), (7, 12), (23, 9)])
def test_a_filled_outline_is_the_mask(shape, share):
    mask = np.random.default_rng(sum(shape)).random(shape) < share
    assert (filled(outline(mask), shape) == mask).all()


def test_there_is_a_loop_for_each_part_and_each_hole():
    """Pixels that touch by a corner are parts of their own; those of the background are one."""
    mask = np.random.default_rng(1).random((30, 31)) < 0.5
    parts = ndimage.label(mask)[1]
    holes = ndimage.label(~np.pad(mask, 1), structure=np.ones((3, 3)))[1] - 1
    assert len(loops(outline(mask))) == parts + holes


def test_a_box_is_five_numbers_long():
    """Straight pieces are one step: corners are cut by half a pixel."""
    mask = np.zeros((9, 9), bool)
    mask[2:5, 1:8] = True
    assert outline(mask) == "M3 4l12 0 1 1 0 4-1 1-12 0-1-1 0-4z"
    assert outline(np.zeros((4, 5), bool)) == ""


def test_holes_run_the_other_way():
    """So that both rules of filling give the mask."""
    mask = np.ones((7, 7), bool)
    mask[3, 3] = False
    around, hole = sorted(loops(outline(mask)), key=len, reverse=True)
    areas = [_area(loop) for loop in (around, hole)]
    assert areas[0] > 0 > areas[1]


def _area(loop):
    x, y = loop.T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2

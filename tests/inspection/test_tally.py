"""Displacements counted by label, against loops and closed forms."""

import numpy as np
import pytest
import torch

from dlka_med.config.labels import IGNORED
from dlka_med.inspection.tally import ALL, Tally, count
from dlka_med.inspection.view import Window
from dlka_med.layers import DeformConv, visit_points


def points_of(layer, x):
    found = []
    visit_points(layer, lambda name, points: found.append(points), x)
    return found[0]


def test_figures_against_a_loop_over_positions():
    """A map of 4 x 3 with strides 2 and 3 over a window of 8 x 9, of which the last rows lie beyond the image."""
    torch.manual_seed(0)
    layer = DeformConv(2, 2, 1, offset_limit=2.0)
    torch.nn.init.normal_(layer.offset_conv.weight)
    x, flat = torch.randn(1, 2, 4, 3), torch.zeros(1, 2, 4, 3)
    points, still = points_of(layer, x), points_of(layer, flat)
    labels = np.random.default_rng(0).integers(0, 3, (8, 9)).astype(np.uint8)
    labels[6:] = IGNORED
    window = Window(torch.zeros(1, 8, 9), labels, (0, 0), (slice(0, 6), slice(0, 9)))
    names = {0: "background", 1: "a", 2: "b"}
    tallies = {name: Tally() for name in (ALL, *names.values())}
    count(tallies, points, still, window, names, (2.0, 3.0), (0.5, 2.0))
    offset = layer.predict_offsets(x)[0][0].detach().double().numpy().reshape(9, 2, 4, 3)
    unmoved = layer.predict_offsets(flat)[0][0].detach().double().numpy().reshape(9, 2, 4, 3)
    millimetres = np.array([2 * 0.5, 3 * 2.0])
    for name, value in [(ALL, None), *((name, value) for value, name in names.items())]:
        moved, by_image, outside, undeformed, limit, vectors = [], [], [], [], [], []
        for row in range(3):
            for column in range(3):
                if value is not None and labels[2 * row + 1, 3 * column + 1] != value:
                    continue
                vectors.append(offset[:, :, row, column] * millimetres)
                for k in range(9):
                    step = offset[k, :, row, column]
                    at = np.array([row + k // 3 - 1, column + k % 3 - 1])
                    moved.append(np.linalg.norm(step * millimetres))
                    by_image.append(np.linalg.norm((step - unmoved[k, :, row, column]) * millimetres))
                    undeformed.append((at <= -1).any() or (at >= (4, 3)).any())
                    outside.append((at + step <= -1).any() or (at + step >= (4, 3)).any())
                    limit.append((abs(step) > 0.95 * 2).any())
        found = tallies[name].figures
        assert found["positions"] == len(moved) // 9
        assert found["moved"] == pytest.approx(np.mean(moved))
        assert found["by_image"] == pytest.approx(np.mean(by_image))
        assert found["largest"] == pytest.approx(np.max(moved))
        assert found["percentile_95"] == pytest.approx(np.percentile(moved, 95))
        assert found["outside"] == pytest.approx(np.mean(outside))
        assert found["outside_undeformed"] == pytest.approx(np.mean(undeformed))
        assert found["at_limit"] == pytest.approx(np.mean(limit))
        assert found["spread"] == pytest.approx(np.sqrt(np.var(vectors, axis=0).sum(1).mean()))
    assert sum(tallies[name].positions for name in names.values()) == tallies[ALL].positions == 9


def test_a_bias_moves_points_but_spreads_nothing():
    layer = DeformConv(2, 1, 1)
    torch.nn.init.constant_(layer.offset_conv.bias, 3.0)
    window = Window(torch.zeros(1, 5, 5), np.ones((5, 5), np.uint8), (0, 0), (slice(0, 5),) * 2)
    tallies = {ALL: Tally(), "a": Tally(), "b": Tally()}
    points = points_of(layer, torch.randn(1, 1, 5, 5))
    count(tallies, points, points, window, {1: "a", 2: "b"}, (1.0, 1.0), (1.0, 1.0))
    found = tallies["a"].figures
    assert found["moved"] == pytest.approx(3 * 2**0.5)
    assert (found["by_image"], found["at_limit"]) == (0, 0)
    assert found["spread"] == pytest.approx(0, abs=1e-6)
    assert tallies["b"].figures == {"positions": 0}

import numpy as np
import pytest
from matplotlib.image import imread

from dlka_med.evaluation.figures import ON_WHITE
from dlka_med.evaluation.figures_uncertainty import in_bins, plot_uncertainty
from dlka_med.evaluation.uncertainty import LEVELS, Doubts


def at(levels, wrong, largest=1.0):
    """So many voxels of each level, so many of them wrong."""
    counts = np.zeros((2, LEVELS), int)
    counts[0, list(levels)], counts[1, list(levels)] = list(levels.values()), wrong
    return Doubts(*counts, largest)


@pytest.mark.parametrize(("largest", "width", "count"), [(1, 0.1, 10), (np.log2(3), 0.1, 16), (np.log2(14), 0.5, 8)])
def test_bins_hold_what_lies_between_their_ends(largest, width, count):
    random = np.random.default_rng(0)
    found = Doubts(random.integers(5, 9, LEVELS), random.integers(0, 5, LEVELS), float(largest))
    told, voxels, wrong = in_bins(found)
    edges = width * np.arange(count + 1)
    edges[-1] = np.inf
    entropy = np.arange(LEVELS) / 255 * largest
    assert told == width
    assert (voxels == np.histogram(entropy + 1e-9, edges, weights=found.voxels)[0]).all()
    assert (wrong == np.histogram(entropy + 1e-9, edges, weights=found.wrong)[0]).all()


def columns(path):
    """Where the bars of the upper axes stand: for each column of pixels how many are of their colour."""
    wanted = [int(ON_WHITE[4][start : start + 2], 16) for start in (1, 3, 5)]
    return (np.abs(np.rint(imread(path)[..., :3] * 255) - wanted).max(-1) <= 3).sum(axis=0)


def test_bars_are_as_high_as_voxels_are_wrong(tmp_path):
    """A bin near 0.3 bit where a fifth is wrong, one near 0.8 bit where four fifths are."""
    plot_uncertainty(at({77: 100, 205: 10}, (20, 8)), tmp_path / "x.png")
    bars = columns(tmp_path / "x.png")
    low, high = bars[: len(bars) * 6 // 10], bars[len(bars) * 6 // 10 :]
    assert high.max() / low.max() == pytest.approx(4, rel=0.03)
    assert low.argmax() < len(bars) * 6 // 10 - 50


def test_no_voxel_is_an_empty_picture(tmp_path):
    plot_uncertainty(at({3: 0}, (0,)), tmp_path / "x.png")
    assert columns(tmp_path / "x.png").sum() == 0

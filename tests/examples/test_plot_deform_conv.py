"""The plot holds a curve per way to compute."""

import importlib
from pathlib import Path

import matplotlib
import matplotlib.image
import pytest

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"


@pytest.fixture
def module(monkeypatch):
    matplotlib.use("Agg")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("plot_deform_conv")


def test_curves_and_picture(module, monkeypatch, tmp_path):
    problems = {3: module.Problem(3, 4, 5, 3), 5: module.Problem(3, 4, 5, 5)}
    times = module.curves(problems, "cpu", rounds=1)
    assert list(times) == ["grid_sample", "reference", "dlka_med", "plain conv"]
    assert all(len(milliseconds) == 2 and min(milliseconds) > 0 for milliseconds in times.values())
    out = tmp_path / "times.png"
    module.plot((("3D", "kernel size", problems),), "cpu", 1, out)
    picture = matplotlib.image.imread(out)
    assert picture.shape[1] == 480
    assert picture[..., :3].std() > 0.05


def test_a_way_that_disagrees_is_not_drawn(module, monkeypatch):
    benchmark = importlib.import_module("benchmark_deform_conv")
    true = benchmark.by_grid_sample
    monkeypatch.setattr(benchmark, "by_grid_sample", lambda *arguments: 1.1 * true(*arguments))
    with pytest.raises(SystemExit, match="differs from the reference"):
        module.curves({3: module.Problem(3, 4, 5, 3)}, "cpu", 1)

"""Both ways of the benchmark compute the same, and it says so where they do not."""

import importlib
from functools import partial
from pathlib import Path

import pytest
import torch

from dlka_med.blocks.norm import InstanceNorm
from dlka_med.layers.conv import FastConv
from dlka_med.networks import DLKANet2d, DLKANet3d

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
SIZES = {"img_size": (8, 16, 16), "channels": (4, 8), "depths": (1, 1), "strides": ((1, 2, 2), (2, 2, 2))}
SMALL = {
    "3D": (partial(DLKANet3d, 1, 3, dropout=0.0, supervised_scales=2, **SIZES), (1, 1, 8, 16, 16)),
    "2D": (partial(DLKANet2d, 3, 2, 32, encoder="test_convnext", deformation="depthwise"), (1, 3, 64, 64)),
}


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    module = importlib.import_module("benchmark_networks")
    monkeypatch.setattr(module, "NETWORKS", SMALL)
    return module


@pytest.mark.parametrize("name", SMALL)
def test_both_ways_agree_or_nothing_is_measured(benchmark, name):
    network, shape = benchmark.built(name)
    published = benchmark.Candidate(network, shape, "cpu", published=True)
    assert not any(isinstance(module, FastConv | InstanceNorm) for module in published.network.modules())
    ours = benchmark.Candidate(network, shape, "cpu", published=False)
    benchmark.check(ours, published)
    with torch.no_grad():
        published.network.heads[0].bias += 0.1
    with pytest.raises(SystemExit, match="the outputs differ"):
        benchmark.check(ours, published)


def test_a_row_per_pass_and_a_profile(benchmark, capsys):
    network, shape = benchmark.built("2D")
    ours = benchmark.Candidate(network, shape, "cpu", published=False)
    benchmark.print_profiles("2D", ours)
    out = capsys.readouterr().out
    assert "### 2D, forward, eval: share of" in out
    assert "### 2D, training step: share of" in out
    assert "dlka_med::deform_conv_cpu_backward" in out

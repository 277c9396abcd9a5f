"""The ways that the benchmark compares agree, and it says so where one does not."""

import importlib
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("benchmark_deform_conv")


@pytest.mark.parametrize(("dims", "dense"), [(2, False), (3, False), (3, True)])
def test_all_ways_agree_or_nothing_is_measured(benchmark, monkeypatch, dims, dense):
    problem = benchmark.Problem(dims, 4, 6, 3, 2, dense)
    tensors = problem.tensors("cpu", torch.float32)
    benchmark.check(problem, tensors, 1e-3)
    true = benchmark.by_grid_sample
    monkeypatch.setattr(benchmark, "by_grid_sample", lambda *arguments: 1.01 * true(*arguments))
    with pytest.raises(SystemExit, match="grid_sample differs from the reference"):
        benchmark.check(problem, tensors, 1e-3)


def test_a_table_has_a_row_per_problem(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "TABLES", {"dense 3D": [benchmark.Problem(3, 2, 4, 3, dense=True)]})
    benchmark.print_table("dense 3D", "cpu", torch.float32, rounds=1)
    lines = capsys.readouterr().out.strip().splitlines()
    assert [line.split(" |")[0] for line in lines[4:]] == ["| dense 3D, 2 ch, 4x4x4, k3 d1", "| geometric mean"]


def test_memory_is_that_of_the_call(benchmark):
    from benchmarking import CLEAR_REFS, peak_memory

    if not CLEAR_REFS.exists():
        pytest.skip("NOT TESTED: resident memory is read on Linux alone")
    size = 64 * 2**20
    assert peak_memory(lambda: torch.ones(size, dtype=torch.uint8), "cpu") == pytest.approx(size, rel=0.05)

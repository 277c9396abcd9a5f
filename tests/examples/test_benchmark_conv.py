"""The ways that the benchmark compares agree, and it says so where one does not."""

import importlib
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    module = importlib.import_module("benchmark_conv")
    small = {
        "depthwise": [module.Problem(1, 4, (5, 6, 7), 3, 2), module.Problem(2, 4, (9, 8), 5)],
        "dense, one image": [module.Problem(1, 3, (8, 7, 6), 3, outputs=5)],
    }
    monkeypatch.setattr(module, "TABLES", small)
    return module


def test_a_row_per_problem(benchmark, capsys):
    for title in benchmark.TABLES:
        benchmark.print_table(title, "cpu", rounds=1)
    rows = [line.split(" |")[0] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert rows == [
        *("| problem", "| 1x5x6x7, 4 ch, k3 d2", "| 2x9x8, 4 ch, k5 d1", "| geometric mean"),
        *("| problem", "| 1x8x7x6, 3 to 5 ch, k3 d1", "| geometric mean"),
    ]


def test_what_disagrees_is_not_measured(benchmark, monkeypatch):
    problem = benchmark.TABLES["depthwise"][0]
    true, layout = benchmark.WAYS["dlka_med"]
    monkeypatch.setitem(benchmark.WAYS, "dlka_med", (lambda *arguments: 1.01 * true(*arguments), layout))
    with pytest.raises(SystemExit, match="dlka_med differs from torch by 1"):
        benchmark.check(benchmark.calls(problem, "cpu"), problem)

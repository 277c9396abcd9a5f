"""The example tells the choices of a recipe apart, and chance from both."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
NAMES = runpy.run_path(str(ROOT / "examples" / "recipe_effects.py"))
CONFIG = ROOT / "configs" / "hippocampus_dlka_net_3d.yaml"


def test_each_change_is_made_in_half_of_the_runs_and_balanced_against_all_others():
    design = NAMES["design"]()
    assert design.shape == (12, 11)
    np.testing.assert_array_equal(design.T @ design, 12 * np.eye(11))
    np.testing.assert_array_equal(design.sum(axis=0), 0)


def test_effects_add_up_and_what_seeds_move_is_chance():
    random, design = np.random.default_rng(0), NAMES["design"]()
    truth = np.zeros(11)
    truth[[1, 6]] = 0.01, -0.006
    false = found = 0
    for _ in range(300):
        scores = 0.9 + design @ truth / 2 + random.normal(0, 0.001, 12)
        effects = NAMES["effects"](scores, [str(number) for number in range(11)])
        assert effects[1].difference == pytest.approx(0.01, abs=0.0025)
        assert effects[6].difference == pytest.approx(-0.006, abs=0.0025)
        beyond = [abs(effect.difference) > effect.margin for effect in effects]
        found += beyond[1] + beyond[6]
        false += sum(beyond) - beyond[1] - beyond[6]
    assert found > 0.95 * 600
    assert 0.005 * 2700 < false < 0.05 * 2700


def test_finished_runs_give_a_table_and_others_are_awaited(tmp_path, capsys, monkeypatch):
    begun = []

    def train(run, config, name):
        begun.append(name)
        if len(begun) == 13:
            raise KeyboardInterrupt
        dice = 0.8 + 0.02 * (config.training.ema is None) - 0.01 * (config.network.norm == "batch")
        run.path.mkdir(parents=True, exist_ok=True)
        run.metrics_file.write_text(f"epoch,step,dice\n0,5,\n1,{10 + config.training.batch_size},{dice}\n")

    monkeypatch.setitem(NAMES["train_all"].__globals__, "trained", train)
    words = [str(CONFIG), "--out", str(tmp_path), "-s", "training.batch_size=4", "--change", "training.ema=null"]
    words += ["--change", "network.norm=batch", "training.batch_size=2"]
    NAMES["main"](words)
    assert sorted(set(begun)) == sorted(begun)
    assert len(begun) == 12
    rows = re.findall(r"\| ([^|]+) \| ([+-][\d.]+) \| [\d.]+ \| (\d+), (\d+) \|", capsys.readouterr().out)
    assert rows == [
        ("training.ema=null", "+0.0200", "13", "13"),
        ("network.norm=batch training.batch_size=2", "-0.0100", "12", "14"),
    ]
    (tmp_path / "run_3" / "metrics.csv").unlink()
    with pytest.raises(KeyboardInterrupt):
        NAMES["main"](words)
    begun.clear()
    monkeypatch.setitem(NAMES["train_all"].__globals__, "trained", lambda run, config, name: None)
    NAMES["main"](words)
    assert "1 of 12 runs are not finished" in capsys.readouterr().out
    (tmp_path / "run_3" / "metrics.csv").write_text("epoch,step\n")
    NAMES["main"](words)
    assert "1 of 12 runs are not finished" in capsys.readouterr().out


def test_a_design_holds_eleven_changes(tmp_path, capsys):
    with pytest.raises(SystemExit):
        NAMES["main"]([str(CONFIG), "--out", str(tmp_path), *["--change", "training.ema=null"] * 12])
    assert "12 runs tell 11 changes apart" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "change", "told"),
    [
        ("absent.yaml", "training.ema=null", "absent.yaml"),
        (str(CONFIG), "training.growing=fast", "training.growing"),
        (str(CONFIG), "training.grwoing=0", "training.grwoing"),
    ],
)
def test_what_cannot_be_trained_is_told_before_the_first_run(tmp_path, capsys, monkeypatch, config, change, told):
    monkeypatch.setitem(NAMES["train_all"].__globals__, "trained", lambda *run: pytest.fail("a run began"))
    unchanged = ["--change", "seed=7"] * 2  # the third change is not made in the first run
    with pytest.raises(SystemExit) as end:
        NAMES["main"]([config, "--out", str(tmp_path), *unchanged, "--change", change])
    assert end.value.code == 2
    assert told in capsys.readouterr().err

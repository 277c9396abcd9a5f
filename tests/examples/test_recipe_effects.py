"""The example tells the choices of a recipe apart, and chance from both."""

import json
import re
import runpy
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dlka_med.run_folder import RunFolder

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


HELD_OUT = {"a": 0.9, "b": 0.5}


@pytest.fixture
def dataset(tmp_path):
    """Two cases of one label, a row of 1000 voxels each."""
    root = tmp_path / "set"
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
        for case in HELD_OUT:
            write_row(root / folder / f"{case}.nii.gz", 1000)
    training = [{"image": f"imagesTr/{case}.nii.gz", "label": f"labelsTr/{case}.nii.gz"} for case in HELD_OUT]
    facts = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "body"}, "training": training}
    (root / "dataset.json").write_text(json.dumps(facts))
    return root


def write_row(path, labelled):
    row = np.zeros((1000, 1, 1), np.uint8)
    row[:labelled] = 1
    nib.save(nib.Nifti1Image(row, np.eye(4)), path)


def test_finished_runs_give_a_table_and_others_are_awaited(tmp_path, dataset, capsys, monkeypatch):
    """The table is of all held-out cases, whatever `metrics.csv` says of some of them."""
    begun = []

    def train(run, config, name):
        begun.append(name)
        if len(begun) == 13:
            raise KeyboardInterrupt
        if not run.path.exists():
            RunFolder.create(run.path, config, {"train": [], "validation": list(HELD_OUT), "test": []})
            run.metrics_file.write_text(f"epoch,step,dice\n0,5,\n1,{10 + config.training.batch_size},0.123\n")
        return run

    def predict(path, images, out, *, split, skip_existing, postprocess):
        assert (images, split, skip_existing, postprocess) == (str(dataset), "validation", True, False)
        training, norm = RunFolder.open(path).config.training, RunFolder.open(path).config.network.norm
        out.mkdir(exist_ok=True)
        for case, dice in HELD_OUT.items():
            dice += 0.02 * (training.ema is None) - 0.01 * (norm == "batch")
            write_row(out / f"{case}.nii.gz", round(1000 * dice / (2 - dice)))

    functions = NAMES["train_all"].__globals__
    monkeypatch.setitem(functions, "trained", train)
    monkeypatch.setitem(functions, "predict_images", predict)
    out = tmp_path / "out"
    out.mkdir()
    labels = "dataset.labels={background: 0, body: 1}"
    words = [
        str(CONFIG),
        "--out",
        str(out),
        "-s",
        f"dataset.root={dataset}",
        "-s",
        labels,
        "-s",
        "training.batch_size=4",
    ]
    words += ["--change", "training.ema=null", "--change", "network.norm=batch", "training.batch_size=2"]
    words += ["-s", "dataset.channels=[MRI]", "-s", "dataset.labels={background: 0, body: 1}"]
    NAMES["main"](words)
    assert sorted(set(begun)) == sorted(begun)
    assert len(begun) == 12
    said = capsys.readouterr().out
    assert "Dice 0.705" in said
    rows = re.findall(r"\| ([^|]+) \| ([+-][\d.]+) \| [\d.]+ \| (\d+), (\d+) \|", said)
    assert [(name, *steps) for name, _, *steps in rows] == [
        ("training.ema=null", "13", "13"),
        ("network.norm=batch training.batch_size=2", "12", "14"),
    ]
    assert [float(found) for _, found, *_ in rows] == pytest.approx([0.02, -0.01], abs=5e-4)
    (out / "run_3_predictions" / "b.nii.gz").unlink()
    with pytest.raises(KeyboardInterrupt):
        NAMES["main"](words)
    monkeypatch.setitem(functions, "trained", lambda run, config, name: run)
    monkeypatch.setitem(functions, "predict_images", lambda *arguments, **options: None)
    NAMES["main"](words)
    assert "1 of 12 runs are not finished" in capsys.readouterr().out
    (out / "run_4" / "metrics.csv").unlink()
    NAMES["main"](words)
    assert "2 of 12 runs are not finished" in capsys.readouterr().out


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

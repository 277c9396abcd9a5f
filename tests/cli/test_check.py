"""dlka check: exit codes, files and what is handed on."""

import csv
import json
import os
from pathlib import Path

import pytest

from dlka_med.cli import main
from dlka_med.data.folds import write_folds
from tests.checking.datasets import volumes
from tests.checking.faults import FAULTS


def planted(code: str, root: Path):
    dataset = volumes(root)
    next(fault for fault in FAULTS if fault.code == code).plant(dataset)
    return dataset


@pytest.mark.parametrize(
    ("code", "expected"), [("grid-noise", 0), ("count-wrong", 1), ("voxels-nan", 1)], ids=["note", "warning", "error"]
)
def test_the_exit_code_says_whether_anything_is_worse_than_a_note(tmp_path, capsys, code, expected):
    assert main(["check", str(planted(code, tmp_path / "data").root), "--workers", "1"]) == expected
    assert code in capsys.readouterr().out


def test_names_that_are_not_utf_8_are_findings(tmp_path, capsysbinary):
    dataset = volumes(tmp_path / "data")
    odd = dataset.image(0).with_name(os.fsdecode(b"M\xfcller.nii.gz"))
    try:
        dataset.image(0).rename(odd)
    except OSError:
        pytest.skip("this file system has no such names")
    assert main(["check", str(dataset.root), "--workers", "1", "--json", str(tmp_path / "found.json")]) == 1
    assert rb"M\udcfcller.nii.gz: the name is not valid UTF-8" in capsysbinary.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())["findings"]
    assert {finding["code"] for finding in found} == {"file-stray", "file-missing"}


def test_wrong_use_is_2(tmp_path, capsys):
    assert main(["check", str(tmp_path)]) == 2
    assert "is not a dataset" in capsys.readouterr().err


@pytest.mark.parametrize(("code", "expected", "cases"), [("voxels-nan", 0, 6), ("file-empty", 1, 5)])
def test_what_could_not_be_mended_is_in_the_exit_code(tmp_path, capsys, code, expected, cases):
    root, out = planted(code, tmp_path / "data").root, tmp_path / "out"
    assert main(["check", str(root), "--fix", str(out), "--workers", "1"]) == expected
    assert f"{out}: {cases} cases" in capsys.readouterr().out
    with (out / "fixes.csv").open(newline="") as file:
        assert code in {row["code"] for row in csv.DictReader(file)}
    assert main(["check", str(out), "--workers", "1"]) == 0


def test_findings_do_not_go_where_the_mended_copy_goes(tmp_path, capsys):
    root = volumes(tmp_path / "data").root
    assert main(["check", str(root), "--fix", str(tmp_path / "out"), "--json", str(tmp_path / "out" / "a.json")]) == 2
    assert "lies in the folder that --fix makes" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_json_holds_the_findings(tmp_path):
    root = planted("voxels-nan", tmp_path / "data").root
    assert main(["check", str(root), "--json", str(tmp_path / "found.json"), "--workers", "1"]) == 1
    [finding] = json.loads((tmp_path / "found.json").read_text())["findings"]
    assert (finding["code"], finding["case"]) == ("voxels-nan", "case_0")


def test_a_config_says_what_is_planned(tmp_path, capsys):
    dataset = volumes(tmp_path / "data")
    config = tmp_path / "c.yaml"
    config.write_text(
        "name: x\n"
        f"dataset: {{root: {dataset.root}, channels: [MRI], labels: {{background: 0, organ: 1, cyst: 2}}, folds: 7}}\n"
        "preprocessing: {spacing: [1, 1, 3]}\n"
        "network: {name: dlka_net_3d}\n"
        "training: {patch_size: [32, 64, 64]}\n"
    )
    assert main(["check", str(dataset.root), "--config", str(config), "--workers", "1"]) == 0
    told = capsys.readouterr().out
    assert "'cyst' (8 voxels) may vanish at the spacing 1 x 1 x 3 mm" in told
    assert "6 cases or groups hold the label 'organ', too few for each of 7 folds" in told
    assert main(["check", str(dataset.root), "--config", str(config), "--folds", "6", "--workers", "1"]) == 0
    assert "too few" not in capsys.readouterr().out
    write_folds(tmp_path / "folds.json", [[f"case_{n}"] for n in range(7)])
    config.write_text(config.read_text().replace("folds: 7", f"folds: {tmp_path / 'folds.json'}"))
    assert main(["check", str(dataset.root), "--config", str(config), "--workers", "1"]) == 0
    assert "too few for each of 7 folds" in capsys.readouterr().out
    (tmp_path / "folds.json").unlink()
    assert main(["check", str(dataset.root), "--config", str(config), "--workers", "1"]) == 2
    assert "folds.json" in capsys.readouterr().err

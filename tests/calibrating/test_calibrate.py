"""From a run folder to its temperature, with labels drawn by known probabilities."""

import hashlib
import json

import nibabel as nib
import numpy as np
import pytest

from dlka_med.calibrating.calibrate import calibrate
from dlka_med.calibrating.result import format_calibration
from dlka_med.cli import main
from dlka_med.errors import InputError
from dlka_med.inference.predictor import Predictor
from dlka_med.inference.temperature import temperature_of
from dlka_med.run_folder import RunFolder
from tests.held_out_runs import CASES, REGIONS, Boastful, folds_of, make_run

ALL = [f"scan{case}" for case in range(CASES)]


def content_of(folder):
    return json.loads((folder / "calibration.json").read_text())


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_the_temperature_is_how_much_the_logits_boast(run, boastful, factor):
    boastful(factor)
    content = calibrate(run.path)
    assert content == content_of(run.path)
    assert content["temperature"] == pytest.approx(factor, rel=0.05)
    assert temperature_of(run) == content["temperature"]
    assert (content["cases"], content["patients"]) == (6, 5)
    assert content["weights"] == {"run": hashlib.sha256(run.weights_file.read_bytes()).hexdigest()}
    assert len(content["held_out_temperatures"]) == 5
    if factor > 1:
        for kind in ("near", "all"):
            assert content["after"][kind]["ece"] < 0.03 < content["before"][kind]["ece"]
            assert content["after"][kind]["nll"] < content["before"][kind]["nll"]
    assert (run.path / "reliability.png").stat().st_size > 0
    assert not list(run.path.glob(".writing-*"))


def test_the_table_tells_what_the_file_holds(run):
    content = calibrate(run.path)
    table = format_calibration(content)
    assert f"temperature {content['temperature']:.3f}, from 6 held-out cases of 5 patients" in table
    row = next(line for line in table.splitlines() if line.startswith("ECE, near"))
    assert row.split()[-2:] == [f"{content[when]['near']['ece']:.4f}" for when in ("before", "after")]


def test_the_bins_add_up_to_the_figures(run):
    content = calibrate(run.path)
    for when in ("before", "after"):
        bins = [one for one in content["reliability"][when] if one["voxels"]]
        gaps = [one["voxels"] * abs(one["confidence"] - one["accuracy"]) for one in bins]
        assert sum(gaps) / sum(one["voxels"] for one in bins) == pytest.approx(content[when]["near"]["ece"])
        assert all(one["from"] < one["confidence"] <= one["to"] for one in bins)


def test_resampled_scans_are_calibrated_on_their_own_grid(dataset, boastful, tmp_path):
    run = make_run(tmp_path / "resampled", dataset, ALL, spacing=[1.0, 1.0, 1.0])
    content = calibrate(run.path, vectors=2000)
    assert content["voxels_drawn"]["near"] == 6 * 1000
    assert content["after"]["near"]["nll"] < content["before"]["near"]["nll"]


def test_regions_have_one_temperature(dataset, boastful, tmp_path):
    """The core is drawn by the logits -x - 1, whatever lies around it."""
    random = np.random.default_rng(1)
    for path in sorted((dataset / "labelsTr").iterdir()):
        image = nib.load(dataset / "imagesTr" / path.name.replace(".nii", "_0000.nii"))
        logits = image.get_fdata()
        core = random.random(logits.shape) < 1 / (1 + np.exp(logits + 1))
        label = np.where(core, 5, 3 * (random.random(logits.shape) < 1 / (1 + np.exp(-logits))))
        nib.save(nib.Nifti1Image(label.astype(np.uint8), image.affine), path)
    facts = json.loads((dataset / "dataset.json").read_text())
    facts |= {"labels": REGIONS, "regions_class_order": [3, 5]}
    (dataset / "dataset.json").write_text(json.dumps(facts))
    boastful(2.0, regions=True)
    content = calibrate(make_run(tmp_path / "regions", dataset, ALL, REGIONS, order=[3, 5]).path)
    assert list(content["regions"]) == ["organ", "core"]
    core = content["regions"]["core"]
    assert core["after"]["nll"] < core["before"]["nll"]
    assert content["temperature"] > 1.5
    assert "ECE, core" in format_calibration(content)


def test_folds_share_the_temperature_of_all_cases(dataset, tmp_path, monkeypatch):
    """Each fold boasts by another factor, and predicts its own cases alone."""
    parts = [["scan0", "scan1"], ["scan2", "scan3"], ["scan4", "scan5"]]
    runs = folds_of(tmp_path / "folds", dataset, parts)
    factors = {"fold_0": 2.0, "fold_1": 3.0, "fold_2": 4.0}
    monkeypatch.setattr(RunFolder, "load_network", lambda run, device="cpu": Boastful(factors[run.path.name]))
    content = calibrate(tmp_path / "folds")
    assert 2.2 < content["temperature"] < 3.8
    assert (content["cases"], content["patients"]) == (6, 5)
    assert len(set(content["weights"].values())) == 3
    assert (tmp_path / "folds" / "reliability.png").is_file()
    for run in runs:
        assert content_of(run.path) == content == content_of(tmp_path / "folds")
        assert Predictor.of_run(run.path).temperature == content["temperature"]
    single = calibrate(runs[2].path)
    assert single["temperature"] == pytest.approx(4, rel=0.1)
    assert content_of(tmp_path / "folds") == content


def test_the_same_voxels_are_drawn_again(run):
    assert calibrate(run.path, vectors=300) == calibrate(run.path, vectors=300)


def test_one_patient_is_too_few_and_nothing_is_written(dataset, boastful, tmp_path, monkeypatch):
    run = make_run(tmp_path / "few", dataset, ["scan0", "scan1"])
    monkeypatch.setattr("dlka_med.calibrating.calibrate.out_of_fold", None)  # nothing is predicted for it
    with pytest.raises(InputError, match="only 1 held-out patients: a temperature"):
        calibrate(run.path)
    assert not run.calibration_file.exists()


def test_a_lack_of_memory_names_the_case(run, monkeypatch):
    plain = Boastful.forward

    def forward(self, x):
        if x.any():  # an empty window was measured before
            raise MemoryError
        return plain(self, x)

    monkeypatch.setattr(Boastful, "forward", forward)
    with pytest.raises(InputError, match="case scan0: there is not enough memory"):
        calibrate(run.path)


def test_the_command_line_prints_the_table(run, capsys):
    assert main(["calibrate", str(run.path)]) == 0
    told = capsys.readouterr()
    assert told.out == format_calibration(content_of(run.path))


def test_the_command_line_refuses_what_cannot_be_calibrated(run, capsys):
    run.weights_file.unlink()
    assert main(["calibrate", str(run.path)]) == 2
    assert "weights.safetensors is missing" in capsys.readouterr().err

"""Runs: what they leave behind, and what they refuse."""

import shutil

import numpy as np
import pytest
import torch
from torch.backends import cudnn

from dlka_med.errors import InputError
from dlka_med.evaluation.evaluate import evaluate
from dlka_med.inference.predict import predict_images
from dlka_med.shards import claimed, lock_of
from dlka_med.training.task import SegmentationTask
from dlka_med.training.train import train

from .runs import changed, rows_of


@pytest.mark.usefixtures("real_curve")
def test_a_run_leaves_a_complete_folder(config, tmp_path):
    run = train(changed(config, epochs=4, steps_per_epoch=3), tmp_path / "run")
    assert {p.name for p in run.path.iterdir()} == {
        *("config.yaml", "split.json", "weights.safetensors", "checkpoint.ckpt"),
        *("metrics.csv", "curve.png", "log.txt", "trained_on.json", "machine.json"),
    }
    rows = rows_of(run)
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    assert [int(row["step"]) for row in rows] == [3, 6, 9, 12]
    assert [bool(row["dice"]) for row in rows] == [False, True, False, True]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert float(run.weights_metadata["validation_dice"]) == pytest.approx(float(rows[-1]["best_dice"]), abs=1e-6)
    assert run.config.dataset.channels == ("MRI",)
    assert run.config.preprocessing.intensity[0].kind == "zscore"
    assert "epoch 4/4" in run.log_file.read_text()
    assert run.curve_file.read_bytes().startswith(b"\x89PNG")
    patients = {part: {int(case[-1]) // 2 for case in cases} for part, cases in run.split.items()}
    assert not patients["train"] & patients["validation"]
    assert run.load_network()(torch.zeros(1, 1, 9, 11, 13)).shape == (1, 2, 9, 11, 13)


def test_train_predict_evaluate(any_config, tmp_path):
    """What the last validation measured is what prediction and evaluation find on the same cases."""
    run = train(changed(any_config, epochs=2), tmp_path / "run")
    predict_images(run.path, any_config.dataset.root, tmp_path / "out", split="validation")
    result = evaluate(tmp_path / "out", any_config.dataset.root, tmp_path / "evaluation")
    assert result.cases == len(run.split["validation"]) == 2
    assert result.unit == ("px" if any_config.image_dims == 2 else "mm")
    assert result.mean["dice"].mean == pytest.approx(float(run.weights_metadata["validation_dice"]), abs=1e-6)
    found = predict_images(run.path, any_config.dataset.root, tmp_path / "mirrored", mirror=True)
    assert {path.name.partition(".")[2] for path in found} == {"png" if any_config.image_dims == 2 else "nii.gz"}


def test_data_of_other_dims_are_refused(any_config, balls, disks, tmp_path):
    other = disks if any_config.image_dims == 3 else balls
    with pytest.raises(InputError, match=r"(network\.name|dataset\.slices) is .*, but .* is one of (2D|volumes)"):
        train(changed(any_config, "dataset", root=str(other)), tmp_path / "run")
    run = train(changed(any_config, epochs=1, steps_per_epoch=1), tmp_path / "run")
    images = shutil.copytree(other / "imagesTr", tmp_path / "images")
    with pytest.raises(InputError, match=r"the run .* was trained on (2D|volumes).*, but .* is one of (2D|volumes)"):
        predict_images(run.path, images, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_all_cases_train_and_the_last_weights_ship(config, tmp_path):
    config = changed(changed(config, epochs=3, validate_every=2), "dataset", fold="all")
    run = train(config, tmp_path / "run")
    assert len(run.split["train"]) == 6
    assert not run.split["validation"]
    state = torch.load(run.checkpoint_file, weights_only=True)["state_dict"]
    for name, tensor in run.load_weights().items():
        assert torch.equal(tensor, state[f"averaged.module.{name}"]), name
    assert run.weights_metadata == {"epoch": "3"}
    assert "nothing validates" in run.log_file.read_text()
    assert "dice" not in rows_of(run)[-1]
    before = run.weights_file.stat().st_mtime_ns
    train(config, tmp_path / "run", resume=True)
    assert run.weights_file.stat().st_mtime_ns == before, "a finished run has nothing to do"
    with pytest.raises(InputError, match=r"no validation case, since .*dataset\.fold: all"):
        predict_images(run.path, config.dataset.root, tmp_path / "out", split="validation")
    assert len(predict_images(run.path, config.dataset.root, tmp_path / "out", split="all")) == 6


def test_reduced_precision_trains(config, tmp_path):
    run = train(changed(config, precision="bf16", epochs=2), tmp_path / "run")
    rows = rows_of(run)
    assert float(rows[1]["loss"]) < float(rows[0]["loss"])
    assert all(t.dtype != torch.bfloat16 for t in run.load_weights().values())


def test_a_started_run_is_not_overwritten(config, finished, tmp_path):
    before = finished.weights_file.read_bytes()
    with pytest.raises(InputError, match="--resume"):
        train(config, finished.path)
    assert finished.weights_file.read_bytes() == before
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="not empty"):
        train(config, tmp_path / "notes")


def test_a_folder_into_which_another_process_trains_is_left_to_it(config, finished, tmp_path):
    """Also before it is made: a run fills the cache first."""
    for path, resume in ((tmp_path / "new", False), (finished.path, True)):
        with claimed(lock_of(path), wait=False), pytest.raises(InputError, match="another process is training into"):
            train(config, path, resume=resume)
    assert not (tmp_path / "new").exists()


def test_bad_hardware_is_refused_before_anything_is_made(config, tmp_path):
    with pytest.raises(InputError, match="ddp"):
        train(changed(config, devices=2), tmp_path / "run")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="CUDA"):
            train(changed(config, accelerator="cuda"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_diverging_run_stops_and_says_so(config, tmp_path, monkeypatch):
    monkeypatch.setattr("dlka_med.training.task.SegmentationTask.mean_loss", lambda self: float("nan"))
    with pytest.raises(InputError, match=r"learning_rate.*there is no earlier state to go back to"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint.ckpt").exists(), "broken weights must not be what a run resumes from"


def test_a_worker_shows_its_own_error(config, tmp_path, monkeypatch):
    monkeypatch.setattr("dlka_med.data.loaders.cut", lambda *_: np.zeros(0)[7])
    with pytest.raises(IndexError, match="index 7 is out of bounds"):
        train(changed(config, workers=1), tmp_path / "run")


def test_the_fastest_algorithms_are_looked_for_while_training(config, tmp_path, monkeypatch):
    seen = []
    step = SegmentationTask.training_step

    def look(self, batch, index):
        seen.append(cudnn.benchmark)
        return step(self, batch, index)

    monkeypatch.setattr(SegmentationTask, "training_step", look)
    monkeypatch.setattr(cudnn, "benchmark", False)
    train(changed(config, epochs=1, steps_per_epoch=1), tmp_path / "run")
    assert seen == [True]
    assert cudnn.benchmark is False

"""Runs: what they leave behind, exact resuming, interruptions, several processes."""

import csv
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dlka_med.config.loading import load_config
from dlka_med.errors import InputError
from dlka_med.evaluation.evaluate import evaluate
from dlka_med.inference.predict import predict_images
from dlka_med.run_folder import RunFolder
from dlka_med.training.callbacks import Recorder
from dlka_med.training.schedule import learning_rate_factor
from dlka_med.training.task import SegmentationTask
from dlka_med.training.train import train


def rows_of(run):
    with run.metrics_file.open() as file:
        return list(csv.DictReader(file))


def changed(config, **training):
    return config.model_copy(update={"training": config.training.model_copy(update=training)})


@pytest.fixture
def stop_after(monkeypatch):
    """Make training fail when the epoch of this number is over and recorded."""

    def _stop_after(epoch):
        record = Recorder.on_train_epoch_end

        def record_and_stop(self, trainer, task):
            record(self, trainer, task)
            if trainer.current_epoch + 1 == epoch:
                raise RuntimeError("power cut")

        monkeypatch.setattr(Recorder, "on_train_epoch_end", record_and_stop)
        return pytest.raises(RuntimeError, match="power cut")

    return _stop_after


def test_a_run_leaves_a_complete_folder(config, tmp_path):
    run = train(config, tmp_path / "run")
    assert {p.name for p in run.path.iterdir()} == {
        *("config.yaml", "split.json", "weights.safetensors", "checkpoint.ckpt"),
        *("metrics.csv", "curve.png", "log.txt"),
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
    assert result.mean.dice == pytest.approx(float(run.weights_metadata["validation_dice"]), abs=1e-6)
    found = predict_images(run.path, any_config.dataset.root, tmp_path / "mirrored", mirror=True)
    assert {path.name.partition(".")[2] for path in found} == {"png" if any_config.image_dims == 2 else "nii.gz"}


def test_data_of_other_dims_are_refused(any_config, balls, disks, tmp_path):
    other = disks if any_config.image_dims == 3 else balls
    config = any_config.model_copy(update={"dataset": any_config.dataset.model_copy(update={"root": str(other)})})
    with pytest.raises(InputError, match=r"(network\.name|dataset\.slices) is .*, but .* is one of (2D|volumes)"):
        train(config, tmp_path / "run")
    run = train(changed(any_config, epochs=1, steps_per_epoch=1), tmp_path / "run")
    with pytest.raises(InputError, match=r"the run .* was trained on (2D|volumes).*, but .* is one of (2D|volumes)"):
        predict_images(run.path, other / "imagesTr", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_run_ends_exactly_as_an_unbroken_one(any_config, tmp_path, stop_after, workers):
    whole = train(any_config, tmp_path / "whole")
    config = changed(any_config, workers=workers)
    with stop_after(epoch=3):
        train(config, tmp_path / "broken")
    resumed = train(config, tmp_path / "broken", resume=True)
    for name, tensor in load_file(whole.weights_file).items():
        assert torch.equal(tensor, load_file(resumed.weights_file)[name]), name
    last = [torch.load(run.checkpoint_file, weights_only=True) for run in (whole, resumed)]
    for name, tensor in last[0]["state_dict"].items():
        assert torch.equal(tensor, last[1]["state_dict"][name]), name
    for one, other in zip(rows_of(whole), rows_of(resumed), strict=True):
        for key in ("epoch", "step", "loss", "dice", "best_dice", "learning_rate"):
            assert one[key] == other[key], key


def test_the_clock_ends_a_run_and_drives_the_rate(config, tmp_path, monkeypatch):
    now = itertools.count(step=0.25)
    monkeypatch.setattr("dlka_med.training.callbacks.time.monotonic", lambda: next(now))
    seen = []
    start = SegmentationTask.on_train_batch_start

    def start_and_look(self, batch, index):
        start(self, batch, index)
        seen.append((self.progress, self.row["learning_rate"]))

    monkeypatch.setattr(SegmentationTask, "on_train_batch_start", start_and_look)
    config = changed(config, epochs=None, minutes=0.1, steps_per_epoch=4, validate_every=1000)
    run = train(config, tmp_path / "run")
    assert rows_of(run)[-1]["dice"], "the last epoch validates"
    shares = [share for share, _ in seen]
    assert shares[0] == 0
    assert shares == sorted(shares)
    assert 0.7 < shares[-1] < 1
    assert [rate for _, rate in seen] == pytest.approx([0.01 * learning_rate_factor(s, "cosine") for s in shares])

    steps = len(seen)
    train(config, tmp_path / "run", resume=True)
    assert len(seen) == steps, "a finished run has nothing to do"
    train(changed(config, minutes=0.15), tmp_path / "run", resume=True)
    assert len(seen) > steps
    assert 0.5 < seen[steps][0] < 0.95


def test_reduced_precision_trains(config, tmp_path):
    run = train(changed(config, precision="bf16", epochs=2), tmp_path / "run")
    rows = rows_of(run)
    assert float(rows[1]["loss"]) < float(rows[0]["loss"])
    assert all(t.dtype != torch.bfloat16 for t in run.load_weights().values())


def test_best_weights_are_those_of_the_best_epoch(config, tmp_path, monkeypatch):
    scores = iter([0.2, 0.9, 0.4, 0.3])
    kept = []
    monkeypatch.setattr("dlka_med.training.train.dice", lambda *_: float(kept[-1]))
    monkeypatch.setattr(
        "dlka_med.training.callbacks.Validation.on_train_epoch_start",
        lambda self, trainer, task: kept.append(next(scores)),
        raising=False,
    )
    run = train(changed(config, validate_every=1), tmp_path / "run")
    assert run.weights_metadata == {"epoch": "2", "validation_dice": "0.900000"}


def test_a_started_run_is_not_overwritten(config, tmp_path):
    config = changed(config, epochs=1)
    run = train(config, tmp_path / "run")
    before = run.weights_file.read_bytes()
    with pytest.raises(InputError, match="--resume"):
        train(config, tmp_path / "run")
    assert run.weights_file.read_bytes() == before
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="not empty"):
        train(config, tmp_path / "notes")


def test_a_run_without_an_epoch_may_start_again(config, tmp_path, stop_after, monkeypatch):
    config = changed(config, epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "on_train_epoch_end", lambda *_: (_ for _ in ()).throw(RuntimeError("power cut")))
        with pytest.raises(RuntimeError, match="power cut"):
            train(config, tmp_path / "run")
    (tmp_path / "run" / "weights.safetensors").unlink()
    assert train(config, tmp_path / "run").started


def test_resume_refuses_another_config_and_names_it(config, tmp_path):
    train(changed(config, epochs=1), tmp_path / "run")
    other = config.model_copy(update={"seed": 7, "network": config.network.model_copy(update={"depths": (2, 1)})})
    with pytest.raises(InputError, match=r"network\.depths: \(2, 1\) asked, \(1, 1\) in the run; seed: 7 asked"):
        train(other, tmp_path / "run", resume=True)


def test_resume_refuses_to_switch_a_setting_off(config, tmp_path):
    train(changed(config, epochs=1), tmp_path / "run")
    with pytest.raises(InputError, match=r"training\.ema: None asked, 0\.9 in the run"):
        train(changed(config, ema=None), tmp_path / "run", resume=True)


def test_resume_refuses_what_is_no_checkpoint_of_this_run(config, tmp_path):
    run = train(changed(config, epochs=1), tmp_path / "run")
    whole = run.checkpoint_file.read_bytes()
    wider = config.network.model_copy(update={"channels": (4, 12)})
    other = train(changed(config.model_copy(update={"network": wider}), epochs=1), tmp_path / "other")
    weights = run.weights_file.read_bytes()
    for content, words in (
        (whole[:1000], r"checkpoint\.ckpt: it is damaged"),
        (other.checkpoint_file.read_bytes(), r"another network .* the first: network\.downsamplers\.1"),
        (None, r"checkpoint\.ckpt is missing"),
    ):
        run.checkpoint_file.unlink()
        if content is not None:
            run.checkpoint_file.write_bytes(content)
        with pytest.raises(InputError, match=words):
            train(config, tmp_path / "run", resume=True)
    assert run.weights_file.read_bytes() == weights


def test_a_run_resumes_from_another_folder(config, tmp_path, monkeypatch):
    root = Path(config.dataset.root)
    monkeypatch.chdir(root.parent)
    near = config.model_copy(update={"dataset": config.dataset.model_copy(update={"root": root.name})})
    run = train(changed(near, epochs=1), tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    saved = load_config(run.path, ["training.epochs=2"])
    assert len(rows_of(train(saved, run.path, resume=True))) == 2


def test_the_log_of_a_failed_run_is_closed(config, tmp_path, stop_after):
    before = list(logging.getLogger("dlka_med").handlers)
    with stop_after(epoch=1):
        train(config, tmp_path / "run")
    assert logging.getLogger("dlka_med").handlers == before


def test_resume_of_no_run_is_refused(config, tmp_path):
    with pytest.raises(InputError, match="no run folder"):
        train(config, tmp_path / "nothing", resume=True)


def test_bad_hardware_is_refused_before_anything_is_made(config, tmp_path):
    with pytest.raises(InputError, match="ddp"):
        train(changed(config, devices=2), tmp_path / "run")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="CUDA"):
            train(changed(config, accelerator="cuda"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_diverging_run_stops_and_says_so(config, tmp_path, monkeypatch):
    monkeypatch.setattr("dlka_med.training.task.SegmentationTask.mean_loss", lambda self: float("nan"))
    with pytest.raises(InputError, match="learning_rate"):
        train(config, tmp_path / "run")


def test_a_worker_shows_its_own_error(config, tmp_path, monkeypatch):
    monkeypatch.setattr("dlka_med.data.loaders.cut", lambda *_: np.zeros(0)[7])
    with pytest.raises(IndexError, match="index 7 is out of bounds"):
        train(changed(config, workers=1), tmp_path / "run")


def command(config_file, out, *more):
    return [sys.executable, "-m", "dlka_med", "train", str(config_file), "--out", str(out), *more]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_folder_that_resumes(config_file, tmp_path, number, code):
    out = tmp_path / "run"
    endless = ["-s", "training.epochs=100000", "-s", "training.validate_every=1000"]
    workers = ["-s", "training.workers=1"]
    arguments = command(config_file, out, *endless, *workers)
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (out / "checkpoint.ckpt").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "--resume goes on" in errors
    assert "Traceback" not in errors
    done = len(rows_of(RunFolder(out)))
    goal = ["-s", f"training.epochs={done + 1}", "-s", "training.validate_every=1000", "--resume"]
    subprocess.run(command(config_file, out, *goal), check=True, timeout=120)
    assert len(rows_of(RunFolder(out))) >= done + 1


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_batch_of_both(config_file, tmp_path):
    # Without batch statistics, dropout and batch Dice the gradient of both halves is their mean.
    same = ["network.norm=instance", "network.dropout=0", "training.loss.dice_weight=0", "training.epochs=2"]
    same = [word for setting in same for word in ("-s", setting)]
    two = ["-s", "training.devices=2", "-s", "training.strategy=ddp"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name, more in (("one", ["-s", "training.batch_size=4"]), ("two", two)):
        arguments = command(config_file, tmp_path / name, *same, *more)
        subprocess.run(arguments, check=True, timeout=300, env=environment)
    one, two = (RunFolder.open(tmp_path / name) for name in ("one", "two"))
    assert [int(row["step"]) for row in rows_of(two)] == [3, 6]
    assert json.loads(two.split_file.read_text())["validation"]
    for key in ("loss", "dice"):
        assert float(rows_of(two)[-1][key]) == pytest.approx(float(rows_of(one)[-1][key]), abs=1e-3)
    weights = two.load_weights()
    for name, tensor in one.load_weights().items():
        torch.testing.assert_close(
            weights[name], tensor, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name} {text}"
        )

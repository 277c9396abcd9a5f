"""A disk that fills up during training: one line that names the file, and nothing half-written."""

import logging
import os
import tempfile
from pathlib import Path

import pytest
import torch

from dlka_med.errors import WriteError
from dlka_med.evaluation.figures import plot_curve
from dlka_med.training.checkpoint import SafeCheckpointIO
from dlka_med.training.log import LogFile
from dlka_med.training.train import train

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="NOT TESTED: this system has no /dev/full")


@pytest.fixture
def full(monkeypatch):
    """(end of a name) -> the disk is full for whole files that end so."""
    mkstemp = tempfile.mkstemp

    def make(end):
        def on_full_disk(prefix, suffix, dir):
            handle, path = mkstemp(prefix=prefix, suffix=suffix, dir=dir)
            if suffix.endswith(end):
                os.unlink(path)
                os.symlink("/dev/full", path)
            return handle, path

        monkeypatch.setattr("dlka_med.files.tempfile.mkstemp", on_full_disk)
        # torch's words do not name a full disk, so the free space decides.
        monkeypatch.setattr("dlka_med.files.ALMOST_NOTHING", float("inf"))

    return make


def test_a_record_that_does_not_fit_ends_the_training_with_its_name(config, tmp_path, full, capfd):
    short = {"epochs": 1, "steps_per_epoch": 1}
    config = config.model_copy(update={"training": config.training.model_copy(update=short)})
    full("metrics.csv")
    with pytest.raises(WriteError, match=r"metrics\.csv cannot be written, no space is left"):
        train(config, tmp_path / "run")
    assert not list(tmp_path.rglob(".writing-*"))
    assert not (tmp_path / "run" / "metrics.csv").exists()
    assert (tmp_path / "run" / "checkpoint.ckpt").is_file()
    assert "Logging error" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("checkpoint.ckpt", lambda path: SafeCheckpointIO().save_checkpoint({"a": torch.zeros(10**5)}, path)),
        ("curve.png", lambda path: plot_curve([{"epoch": 1, "loss": 1.0, "dice": 0.5, "best_dice": 0.5}], path)),
    ],
)
def test_a_file_that_does_not_fit_is_named_and_the_old_one_stays(tmp_path, full, name, write):
    (tmp_path / name).write_text("old")
    full(name)
    with pytest.raises(WriteError, match=f"{name} cannot be written, no space is left"):
        write(tmp_path / name)
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "old"


def test_a_line_that_does_not_fit_is_lost_without_a_trace(capfd):
    log = logging.Logger("on a full disk")
    handler = LogFile(Path("/dev/full"))
    log.addHandler(handler)
    log.error("lost")
    handler.close()
    assert capfd.readouterr().err == ""

"""What ends a run from outside."""

import os
import signal
import subprocess
import time

import pytest

import dlka_med.training.train as train_module
from dlka_med.run_folder import RunFolder
from dlka_med.training.task import SegmentationTask
from dlka_med.training.train import train
from dlka_med.training.validation import Validation

from .runs import changed, command, rows_of

NO_SIGNAL = pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="this system has no SIGUSR1")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_folder_that_resumes(config_file, tmp_path, number, code):
    out = tmp_path / "run"
    endless = ["-s", "training.epochs=100000", "-s", "training.validate_every=1000"]
    workers = ["-s", "training.workers=1"]
    arguments = command(config_file, out, *endless, *workers)
    # What runs in the background of a script is born deaf to Ctrl-C.
    hearing = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), "start_new_session": True}
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, **hearing) as process:
        try:
            deadline = time.monotonic() + 120
            while not RunFolder(out).metrics_file.exists():
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < deadline
                time.sleep(0.1)
            os.killpg(process.pid, number)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == code, errors
    assert "--resume goes on" in errors
    assert "Traceback" not in errors
    done = len(rows_of(RunFolder(out)))
    config = RunFolder.open(out).config
    train(changed(config, epochs=done + 1), out, resume=True, extend=True)
    assert len(rows_of(RunFolder(out))) >= done + 1


@pytest.mark.parametrize("by", ["file", pytest.param("signal", marks=NO_SIGNAL)])
def test_a_wish_ends_a_run_with_a_valid_result(config, tmp_path, monkeypatch, caplog, by):
    """In the middle of its second epoch; what is left is made up for by --resume."""
    out, steps = tmp_path / "run", []
    step = SegmentationTask.on_train_batch_end

    def wish(self, *batch):
        step(self, *batch)
        steps.append(1)
        if len(steps) == 4:
            (out / "stop").touch() if by == "file" else os.kill(os.getpid(), signal.SIGUSR1)

    caplog.set_level("INFO", "dlka_med")
    before = signal.getsignal(getattr(signal, "SIGUSR1", signal.SIGINT))
    with monkeypatch.context() as patch:
        patch.setattr(SegmentationTask, "on_train_batch_end", wish)
        run = train(changed(config, epochs=3, steps_per_epoch=3, validate_every=1000), out)
    assert len(steps) in (4, 5)
    rows = rows_of(run)
    assert [int(row["step"]) for row in rows] == [3, len(steps)]
    assert rows[-1]["dice"], "the last epoch validates"
    assert run.weights_metadata["epoch"] == "2"
    assert "ended as asked, with validated weights" in caplog.text
    assert not run.stop_file.exists()
    assert signal.getsignal(getattr(signal, "SIGUSR1", signal.SIGINT)) == before
    run.stop_file.touch()  # left over: it is of no training
    train(run.config, out, resume=True)
    assert int(rows_of(run)[-1]["step"]) == 9
    assert not run.stop_file.exists()


def test_a_wish_during_a_validation_ends_with_it(config, tmp_path, monkeypatch, caplog):
    out, measure = tmp_path / "run", Validation._measure

    def wish(self, trainer, network):
        (out / "stop").touch()
        return measure(self, trainer, network)

    caplog.set_level("INFO", "dlka_med")
    monkeypatch.setattr(Validation, "_measure", wish)
    run = train(changed(config, epochs=3, steps_per_epoch=2, validate_every=1), out)
    assert [int(row["step"]) for row in rows_of(run)] == [2]
    assert "ended as asked" in caplog.text
    caplog.clear()
    out = tmp_path / "late"
    train(changed(config, epochs=1, validate_every=1), out)
    assert "ended as asked" not in caplog.text, "it was at its end anyway"


def test_a_wish_after_the_last_step_of_an_epoch_takes_no_further_step(config, tmp_path, monkeypatch):
    out, mean_loss = tmp_path / "run", SegmentationTask.mean_loss

    def wish(self):
        (out / "stop").touch()
        return mean_loss(self)

    monkeypatch.setattr(SegmentationTask, "mean_loss", wish)
    run = train(changed(config, epochs=3, validate_every=1000), out)
    assert [int(row["step"]) for row in rows_of(run)] == [2]
    assert run.weights_metadata["epoch"] == "1"


@NO_SIGNAL
def test_a_wish_counts_from_the_beginning(config, tmp_path, monkeypatch):
    """Also while the dataset is read, and where nothing validates, of which the log says nothing else."""
    read = train_module.RunData

    def wish(*arguments):
        os.kill(os.getpid(), signal.SIGUSR1)
        return read(*arguments)

    monkeypatch.setattr(train_module, "RunData", wish)
    missed = []
    before = signal.signal(signal.SIGUSR1, lambda *signalled: missed.append(signalled))
    try:
        run = train(changed(changed(config, epochs=100), "dataset", fold="all"), tmp_path / "run")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not missed
    assert [int(row["step"]) for row in rows_of(run)] == [1]
    assert run.weights_file.is_file()
    assert "ended as asked, with its latest weights" in run.log_file.read_text()

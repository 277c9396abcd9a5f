"""What ends a run from outside."""

import os
import signal
import subprocess
import time

import pytest

from dlka_med.run_folder import RunFolder

from .runs import command, rows_of


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
    goal = ["-s", f"training.epochs={done + 1}", "-s", "training.validate_every=1000", "--resume"]
    subprocess.run(command(config_file, out, *goal), check=True, timeout=120)
    assert len(rows_of(RunFolder(out))) >= done + 1

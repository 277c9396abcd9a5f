"""Held-out cases within a limit of memory."""

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dlka_med.cli import main
from dlka_med.errors import InputError
from dlka_med.inference import budget as budgets
from dlka_med.inference.budget import GIB, MARGIN, Budget, Learning, WindowCost
from dlka_med.inference.held_out import held_out
from dlka_med.inference.out_of_fold import out_of_fold
from dlka_med.inference.predictor import Predictor
from dlka_med.inference.windows import Load
from dlka_med.run_folder import RunFolder
from tests.held_out_runs import CASES, Boastful, folds_of, make_dataset, make_run, write_case

ALL = [f"scan{case}" for case in range(CASES)]
WINDOW = WindowCost(bytes=0.25 * GIB, seconds=0.5, outputs=2, process=0.5 * GIB)
PLACE = torch.device("cpu")
PROJECT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def told(monkeypatch):
    """A window is said to take `WINDOW`, whatever it takes."""
    monkeypatch.setattr(budgets, "measure_window", lambda *_: WINDOW)
    monkeypatch.setattr(RunFolder, "load_network", lambda self, device="cpu": Boastful())


def predicted(runs, learning, memory):
    """Cases and windows at once, in their order."""
    return list(out_of_fold(runs, PLACE, lambda p, prepared, case, _: (case.id, p.load.windows), learning, memory))


@pytest.fixture
def runs(tmp_path):
    """Two folds of six cases, with up to four windows at once."""
    folder, root = tmp_path / "folds", make_dataset(tmp_path / "data")
    large = np.random.default_rng(0).normal(0, 1, (64, 80, 80)).astype(np.float32)
    write_case(root, "scan4", large, 3 * (large > 0))
    folds_of(folder, root, [ALL[:3], ALL[3:]])
    found = held_out(folder, "something")
    for one in found:
        inference = one.run.config.inference.model_copy(update={"batch_size": 4})
        one.run.__dict__["config"] = one.run.config.model_copy(update={"inference": inference})
    return found


def peak(run, case, learning, windows=1) -> float:
    """Bytes for a case, by its header."""
    budget = Budget(Predictor.of_config(Boastful(), run.config, device=PLACE), run.config, GIB, learning=learning)
    return budget.peak(budget.expected(case), Load(windows))


@pytest.mark.usefixtures("told")
def test_as_many_windows_pass_at_once_as_fit(runs, caplog):
    with caplog.at_level(logging.INFO, "dlka_med"):
        found = predicted(runs, Learning(), 8)
    assert found == [(case, 4 if case == "scan4" else 1) for case in ALL]
    assert [m for m in caplog.messages if m.startswith("expected per case: ")]
    assert [m for m in caplog.messages if m.startswith("memory of the process at its peak: ")]
    for windows in (1, 2, 3):
        room = (peak(runs[1].run, runs[1].cases[1], Learning(), windows) + 1e6) / GIB
        assert dict(predicted(runs, Learning(), room))["scan4"] == windows


@pytest.mark.usefixtures("told")
def test_what_does_not_fit_is_refused_before_anything_is_predicted(runs):
    """The case of the second fold is the largest: the first fold does not begin."""
    done, room = [], (peak(runs[1].run, runs[1].cases[1], Learning(after=2000)) - 1e6) / GIB
    with pytest.raises(InputError, match=rf"^case scan4: it needs about [\d.]+ GiB .*, but may take {room:.2f}"):
        list(out_of_fold(runs, PLACE, lambda *_: done.append(1), Learning(after=2000), room))
    assert done == []
    assert len(predicted(runs, Learning(after=2000), room + 0.01)) == CASES


@pytest.mark.usefixtures("told")
def test_what_is_held_of_a_case_is_counted(runs):
    """At the end more than the windows hold; all logits, of two outputs."""
    run, case, voxels = runs[1].run, runs[1].cases[1], 64 * 80 * 80
    least = peak(run, case, Learning(after=2000))
    assert peak(run, case, Learning(after=2500)) - least == pytest.approx(MARGIN * 500 * voxels)
    assert peak(run, case, Learning(logits=True, after=2000)) - least == pytest.approx(MARGIN * 4 * 2 * voxels)


@pytest.mark.usefixtures("told")
def test_what_stays_of_every_case_adds_up(runs):
    """Of a fifth of a GiB for each case: the sixth needs one GiB more than the first, and the fifth is the largest."""
    learning = Learning(kept=GIB // (10 * 4 * WINDOW.outputs), beside=GIB // 10)
    large = peak(runs[1].run, runs[1].cases[1], learning)
    before = (large + MARGIN * 0.8 * GIB) / GIB
    with pytest.raises(InputError, match=r"^case scan4: it needs"):
        predicted(runs, learning, before - 0.01)
    assert len(predicted(runs, learning, (large + MARGIN * 1.0 * GIB) / GIB)) == CASES


@pytest.mark.parametrize("verb", ["calibrate", "postprocess"])
def test_the_command_line_refuses_with_a_number(tmp_path, monkeypatch, capsys, verb):
    monkeypatch.setattr(RunFolder, "load_network", lambda self, device="cpu": Boastful())
    run = make_run(tmp_path / "run", make_dataset(tmp_path / "data"), ALL)
    assert main([verb, str(run.path), "--memory", "0.01"]) == 2
    said = capsys.readouterr().err
    assert re.search(r"error: case scan0: it needs about [\d.]+ GiB of memory, but may take 0\.01: give --memory", said)
    assert not run.calibration_file.exists()
    assert not run.postprocessing_file.exists()
    assert main([verb, str(run.path), "--memory", "64"]) == 0


MEASURE = """
import sys, numpy as np, torch, nibabel as nib
from pathlib import Path
from torch import nn
from dlka_med import machine
from dlka_med.calibrating.calibrate import calibrate
from dlka_med.inference import budget as module
from dlka_med.postprocessing.learn import learn_postprocessing
from dlka_med.run_folder import RunFolder
from tests.held_out_runs import make_run, write_case
root, spacing = Path(sys.argv[1]), float(sys.argv[3])
random = np.random.default_rng(0)
for number in range(5):
    image = random.normal(0, 1, (192, 160, 160)).astype(np.float32)
    write_case(root / "data", f"scan{number}", image, 3 * (image > 2))
(root / "data" / "dataset.json").write_text(
    '{"channel_names": {"0": "T1"}, "labels": {"background": 0, "organ": 3}, "file_ending": ".nii.gz"}'
)
run = make_run(
    root / "run", root / "data", [f"scan{n}" for n in range(5)], spacing=(spacing, 1.5 * spacing, spacing)
)
torch.manual_seed(0)
RunFolder.load_network = lambda self, device="cpu": nn.Conv3d(1, 2, 3, padding=1)
peaks, plain = [], module.Budget.peak
module.Budget.peak = lambda self, extent, load: peaks.append(plain(self, extent, load)) or peaks[-1]
preparing, check = [], module.Budget.check_preparing
module.Budget.check_preparing = lambda self, one: preparing.append(self._at_peak(one.preparing)) or check(self, one)
work = {"calibrate": calibrate, "postprocess": learn_postprocessing}[sys.argv[2]]
_, peak = machine.peak_while(lambda: work(run.path))
print(max(*peaks, *preparing) / peak)
"""


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["calibrate", "postprocess"])
@pytest.mark.parametrize("spacing", [1, 0.9])
def test_the_estimate_is_near_the_peak(tmp_path, verb, spacing):
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path), verb, str(spacing)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert 1 < float(done.stdout) < 1.6

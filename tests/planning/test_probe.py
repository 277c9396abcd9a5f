"""Steps in a process of their own."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from dlka_med.planning.probe import Measured, _processor_time, measure, probe

from .configs import config_of, volumes

CONFIG = config_of(volumes(8), (16, 16, 16))


def stand_in(monkeypatch, **answer):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(**{"stdout": "", "stderr": ""} | answer))


def test_a_lack_of_memory_is_an_answer(monkeypatch):
    stand_in(monkeypatch, returncode=-9)
    assert probe(CONFIG, "cpu").failed == "exit code -9"
    stand_in(monkeypatch, returncode=1, stderr="Traceback\nRuntimeError: not enough memory: you tried to allocate")
    assert "not enough memory" in probe(CONFIG, "cpu").failed


def test_any_other_end_is_a_fault(monkeypatch):
    stand_in(monkeypatch, returncode=1, stderr="Traceback\nTypeError: x")
    with pytest.raises(RuntimeError, match="TypeError: x"):
        probe(CONFIG, "cpu")


def test_the_last_line_is_the_answer(monkeypatch):
    stand_in(monkeypatch, returncode=0, stdout='some word\n{"peak": 5.0, "seconds": 2.0}\n')
    assert probe(CONFIG, "cpu") == Measured(5.0, 2.0)


def test_on_a_busy_machine_one_thread_tells_the_time(monkeypatch):
    answers = iter([(0.0, 0.0), (1.0, 3.0)])
    monkeypatch.setattr("dlka_med.planning.probe._processor_time", lambda: next(answers))
    threads = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    found = measure(CONFIG, "cpu")
    assert threads == [1]
    assert found.waited == 0.75
    assert found.seconds > 0
    assert found.peak > 2**27


def test_time_of_the_processor_grows_with_work():
    before = _processor_time()
    sum(range(3_000_000))
    after = _processor_time()
    assert after[0] > before[0] or after == (0.0, 0.0)


MAPS = """
import mmap, sys
from types import SimpleNamespace
from dlka_med.planning.probe import _peak
size, cpu = 2**28, SimpleNamespace(type="cpu")
peaks = [_peak(cpu)]
with open(sys.argv[1], "rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as pages:
    sum(pages[first] for first in range(0, size, 4096))
    peaks.append(_peak(cpu))
    own = bytearray(size)
    peaks.append(_peak(cpu))
sys.stdout.write(" ".join(map(str, peaks)))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is mapped of files")
def test_files_that_are_mapped_are_not_held(tmp_path):
    """Else the same step holds 0.3 GiB more just after PyTorch was installed."""
    with open(tmp_path / "pages", "wb") as file:
        file.truncate(2**28)
    done = subprocess.run([sys.executable, "-c", MAPS, tmp_path / "pages"], capture_output=True, text=True, check=True)
    before, mapped, own = map(float, done.stdout.split())
    assert mapped - before < 2**25
    assert own - mapped == pytest.approx(2**28, rel=0.1)

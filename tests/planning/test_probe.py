"""Steps in a process of their own."""

import subprocess
from types import SimpleNamespace

import pytest

from dlka_med.planning.probe import Measured, probe

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

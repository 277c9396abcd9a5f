"""Fixtures that every test may ask for."""

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # Workers share the cores; their subprocesses do too.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when it is imported, which other packages may do.

FONTS = matplotlib.get_cachedir()  # It takes seconds to find all fonts anew.
PROJECT = Path(__file__).resolve().parent.parent


def _shared(name: str) -> Path:
    folder = PROJECT.parent / "shared" / name
    if not folder.is_dir():
        pytest.skip(f"NOT TESTED: {folder} is missing; put the shared {name} folder there to run this test")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _user_cache_of_shared_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fixtures that many tests share begin before `user_cache`."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
            patch.setenv(name, str(tmp_path_factory.mktemp("user_cache")))
        yield


@pytest.fixture(autouse=True)
def user_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is written into the cache directory of whoever runs the tests, nor of the programs that tests start."""
    folder = tmp_path_factory.mktemp("user_cache")
    monkeypatch.setenv("MPLCONFIGDIR", FONTS)
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(folder))
    if sys.platform == "darwin":
        monkeypatch.setenv("HOME", str(folder))
    return folder / "dlka_med"


@pytest.fixture(autouse=True)
def _loggers_as_before() -> Iterator[None]:
    """What the command line sets up ends with its test: its stream is closed then."""
    names = ["dlka_med", "pytorch_lightning", "lightning.pytorch", "lightning_fabric", "lightning.fabric"]
    loggers = [logging.getLogger(name) for name in names]
    before = [([*logger.handlers], logger.propagate, logger.level) for logger in loggers]
    yield
    for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real datasets (hippocampus MRI, nuclei), read-only."""
    return _shared("data")


@pytest.fixture(scope="session")
def shared_reference() -> Path:
    """Golden outputs of the original networks."""
    return _shared("reference")

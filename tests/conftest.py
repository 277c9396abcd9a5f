"""Fixtures that every test may ask for."""

import os
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when it is imported, which other packages may do.

PROJECT = Path(__file__).resolve().parent.parent


def _shared(name: str) -> Path:
    folder = PROJECT.parent / "shared" / name
    if not folder.is_dir():
        pytest.skip(f"NOT TESTED: {folder} is missing; put the shared {name} folder there to run this test")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real datasets (hippocampus MRI, nuclei), read-only."""
    return _shared("data")


@pytest.fixture(scope="session")
def shared_reference() -> Path:
    """Golden outputs of the original networks."""
    return _shared("reference")

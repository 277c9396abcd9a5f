"""Weights of original checkpoints, made up by name."""

import importlib.util
import json

import pytest


@pytest.fixture(scope="session")
def fill(shared_reference):
    """The module that makes the weights and the image of the golden outputs."""
    spec = importlib.util.spec_from_file_location("fill", shared_reference / "fill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def published(shared_reference):
    """Name of a published network -> original name -> shape."""
    return lambda name: json.loads((shared_reference / f"{name}.json").read_text())

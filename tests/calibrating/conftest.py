"""A run that boasts."""

import pytest

from dlka_med.run_folder import RunFolder
from tests.held_out_runs import CASES, Boastful, make_dataset, make_run


@pytest.fixture
def boastful(monkeypatch):
    """(factor, regions) -> what every run's network is from then on."""

    def be(factor=3.0, regions=False):
        monkeypatch.setattr(RunFolder, "load_network", lambda run, device="cpu": Boastful(factor, regions))

    be()
    return be


@pytest.fixture
def dataset(tmp_path):
    """Folder of six cases, of five patients."""
    return make_dataset(tmp_path / "data")


@pytest.fixture
def run(dataset, boastful, tmp_path):
    """A run whose logits are three times too large, validated by all cases."""
    return make_run(tmp_path / "run", dataset, [f"scan{case}" for case in range(CASES)])

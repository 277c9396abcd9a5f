"""Runs keep the weights of their end; of earlier comparisons it is told that they did not."""

import pytest

from dlka_med.comparing.ablation import ablation, write_variants
from dlka_med.comparing.folder import ComparisonFolder
from dlka_med.comparing.weights import NEVER_BEFORE, rule_of, validating_once


@pytest.fixture
def planned(call, small, monkeypatch, tmp_path):
    """Configs of a comparison of two epochs, of which nothing is trained."""
    monkeypatch.setattr("dlka_med.comparing.compare.run_all", lambda *_: None)
    assert call(tmp_path / "out", epochs=2) is None
    folder = ComparisonFolder(tmp_path / "out")
    return [*folder.read_configs(folder.read().networks).values()]


def test_a_run_validates_once_at_its_end(planned):
    assert [config.training.validate_every for config in planned] == [2, 2]
    assert rule_of(planned).endswith("none were chosen on these cases")


def test_so_does_a_variant(planned, tmp_path):
    often = _with(planned[0], validate_every=1, epochs=None, minutes=3.0)
    folder, asked = ComparisonFolder(tmp_path / "variants"), ablation(often)
    folder.configs.mkdir(parents=True)
    write_variants(folder, asked)
    found = folder.read_configs(asked.networks).values()
    assert len(found) > 2
    assert {config.training.validate_every for config in found} == {NEVER_BEFORE}


def test_weights_that_were_chosen_are_told(planned):
    for changed in ({"validate_every": 1}, {"epochs": None, "minutes": 1.0}):
        assert "validated best on these cases" in rule_of([planned[0], _with(planned[1], **changed)])
    assert rule_of([validating_once(_with(planned[1], epochs=None, minutes=1.0))]) == rule_of(planned)


def _with(config, **changes):
    return config.model_copy(update={"training": config.training.model_copy(update=changes)})

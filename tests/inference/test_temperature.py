"""The temperature of a run, and whose weights it is of."""

import hashlib
import json

import pytest
import torch

from dlka_med.errors import InputError
from dlka_med.inference.temperature import digest_of_weights, temperature_of
from dlka_med.run_folder import RunFolder

from .test_predict import make_run


@pytest.fixture
def run(tmp_path) -> RunFolder:
    run = make_run(tmp_path / "run")
    run.save_weights({"w": torch.ones(3)})
    return run


def write(run, **content):
    digest = hashlib.sha256(run.weights_file.read_bytes()).hexdigest()
    run.calibration_file.write_text(json.dumps({"temperature": 1.5, "weights": {"fold_1": digest}} | content))


def test_a_run_that_was_not_calibrated_has_1(run):
    assert temperature_of(run) == 1


def test_the_temperature_of_these_weights_is_read(run):
    write(run)
    assert temperature_of(run) == 1.5
    assert digest_of_weights(run) == json.loads(run.calibration_file.read_text())["weights"]["fold_1"]


def test_other_weights_have_another_temperature(run):
    write(run)
    run.save_weights({"w": torch.zeros(3)})
    with pytest.raises(InputError, match=r"calibration\.json was fitted for other weights.*dlka calibrate"):
        temperature_of(run)


@pytest.mark.parametrize(
    "content", [{"temperature": 0}, {"temperature": float("nan")}, {"temperature": "hot"}, {"weights": 3}]
)
def test_a_damaged_file_is_named(run, content):
    write(run, **content)
    with pytest.raises(InputError, match=r"calibration\.json.*again, or remove the file"):
        temperature_of(run)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"temperature"'])
def test_half_a_file_is_named(run, text):
    run.calibration_file.write_text(text)
    with pytest.raises(InputError, match=r"calibration\.json.*again, or remove the file"):
        temperature_of(run)

"""A training starts from the weights of another run, in whole or in part."""

import logging

import pytest
import torch

from dlka_med.errors import InputError
from dlka_med.run_folder import PARTS, RunFolder, build_run_network
from dlka_med.training.start import start_from_run
from dlka_med.training.train import train


def changed(config, section, **values):
    return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})


@pytest.fixture
def known(config):
    """The smallest run, its channels and labels named."""
    return changed(config, "dataset", channels=("MRI",), labels={"background": 0, "ball": 1})


@pytest.fixture
def other(known, tmp_path):
    """A run with weights unlike any start."""
    run = RunFolder.create(tmp_path / "other", known, {part: () for part in PARTS})
    torch.manual_seed(1)
    network = build_run_network(known)
    run.save_weights({name: t + 0.125 if t.is_floating_point() else t for name, t in network.state_dict().items()})
    return run


def test_all_weights_are_taken_and_said(known, other, caplog):
    network = build_run_network(known)
    start_from_run(network, known.training)
    assert not any(torch.equal(t, other.load_weights()[name]) for name, t in network.named_parameters())
    with caplog.at_level(logging.INFO, "dlka_med"):
        start_from_run(network, known.training.model_copy(update={"start_from": str(other.path)}))
    weights = other.load_weights()
    assert all(torch.equal(t, weights[name]) for name, t in network.state_dict().items())
    assert f"starting from {other.path}: {len(weights)} tensors loaded" in caplog.text


def test_another_number_of_classes_takes_what_fits_if_asked(known, other, caplog):
    more = changed(known, "dataset", labels={"background": 0, "ball": 1, "shell": 2})
    network = build_run_network(more)
    before = {name: t.clone() for name, t in network.state_dict().items()}
    strict = more.training.model_copy(update={"start_from": str(other.path)})
    with pytest.raises(InputError, match=r"do not fit: 4 of wrong shape: heads.0.bias(.|\n)*start_partially"):
        start_from_run(network, strict)
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())
    with caplog.at_level(logging.INFO, "dlka_med"):
        start_from_run(network, strict.model_copy(update={"start_partially": True}))
    weights = other.load_weights()
    for name, t in network.state_dict().items():
        assert torch.equal(t, before[name] if name.startswith("heads.") else weights[name])
    assert "4 of wrong shape: heads.0.bias" in caplog.text


def test_what_is_no_run_or_fits_nowhere(known, other, tmp_path):
    network = build_run_network(known)
    nowhere = known.training.model_copy(update={"start_from": str(tmp_path / "othr")})
    with pytest.raises(InputError, match=r"there is no run folder .*did you mean .*other"):
        start_from_run(network, nowhere)
    other.save_weights({"foreign": torch.zeros(2)})
    foreign = known.training.model_copy(update={"start_from": str(other.path), "start_partially": True})
    with pytest.raises(InputError, match=r"do not fit: .*missing.*\n1 unexpected: foreign"):
        start_from_run(network, foreign)
    other.weights_file.unlink()
    with pytest.raises(InputError, match=r"weights.safetensors is missing"):
        start_from_run(network, foreign)


def test_a_training_starts_there_and_resumes_without_it(config, other, tmp_path):
    optimizer = config.training.optimizer.model_copy(update={"learning_rate": 1e-9})
    still = {"start_from": str(other.path), "epochs": 1, "validate_every": 1, "optimizer": optimizer, "ema": None}
    config = changed(config, "training", **still)
    run, start = train(config, tmp_path / "run"), other.load_weights()
    for name, t in build_run_network(run.config).named_parameters():
        torch.testing.assert_close(run.load_weights()[name], start[name], rtol=0, atol=1e-6)
        assert not torch.equal(start[name], t)
    other.weights_file.unlink()
    train(changed(config, "training", epochs=2), tmp_path / "run", resume=True)

"""A training starts from the weights of another run, in whole or in part, and says so."""

import logging

import pytest
import torch

from dlka_med.data.cases import read_dataset
from dlka_med.errors import InputError
from dlka_med.provenance import Provenance
from dlka_med.run_folder import PARTS, RunFolder, build_run_network
from dlka_med.training.callbacks import Safekeeping
from dlka_med.training.start import first_network
from dlka_med.training.train import train

from .runs import changed


@pytest.fixture
def known(config):
    """The smallest run, its channels and labels named."""
    return changed(config, "dataset", channels=("MRI",), labels={"background": 0, "ball": 1})


def run_with_other_weights(config, path):
    """A run of a config, with weights unlike any start, that nobody knows the cases of."""
    run = RunFolder.create(path, config, {part: () for part in PARTS})
    torch.manual_seed(1)
    network = build_run_network(config)
    run.save_weights({name: t + 0.125 if t.is_floating_point() else t for name, t in network.state_dict().items()})
    return run


@pytest.fixture
def other(known, tmp_path):
    return run_with_other_weights(known, tmp_path / "other")


def test_all_weights_are_taken_and_said(known, other, caplog):
    fresh = first_network(known)
    assert not any(torch.equal(t, other.load_weights()[name]) for name, t in fresh.named_parameters())
    with caplog.at_level(logging.INFO, "dlka_med"):
        network = first_network(changed(known, start_from=str(other.path)))
    weights = other.load_weights()
    assert all(torch.equal(t, weights[name]) for name, t in network.state_dict().items())
    assert f"starting from {other.path}: {len(weights)} tensors loaded" in caplog.text


def test_another_number_of_classes_takes_what_fits_if_asked(known, other, caplog):
    more = changed(known, "dataset", labels={"background": 0, "ball": 1, "shell": 2})
    before = first_network(more).state_dict()
    with pytest.raises(InputError, match=r"do not fit: 4 of wrong shape: heads.0.bias(.|\n)*start_partially"):
        first_network(changed(more, start_from=str(other.path)))
    with caplog.at_level(logging.INFO, "dlka_med"):
        network = first_network(changed(more, start_from=str(other.path), start_partially=True))
    weights = other.load_weights()
    for name, t in network.state_dict().items():
        assert torch.equal(t, before[name] if name.startswith("heads.") else weights[name])
    assert "4 of wrong shape: heads.0.bias" in caplog.text


def test_what_is_no_run_or_fits_nowhere(known, other, tmp_path):
    nowhere = changed(known, start_from=str(tmp_path / "othr"))
    with pytest.raises(InputError, match=r"there is no run folder .*did you mean .*other"):
        first_network(nowhere)
    other.save_weights({"foreign": torch.zeros(2)})
    foreign = changed(known, start_from=str(other.path), start_partially=True)
    with pytest.raises(InputError, match=r"do not fit: .*missing.*\n1 unexpected: foreign"):
        first_network(foreign)
    other.weights_file.unlink()
    with pytest.raises(InputError, match=r"weights.safetensors is missing"):
        first_network(foreign)


def test_channels_in_another_order_are_reordered(tmp_path, caplog, any_config):
    labels = {"background": 0, "ball": 1}
    theirs = changed(any_config, "dataset", channels=("ADC", "T2", "DWI"), labels=labels)
    ours = changed(any_config, "dataset", channels=("T2", "dwi ", "ADC"), labels=labels)
    run = run_with_other_weights(theirs, tmp_path / "run")
    with caplog.at_level(logging.INFO, "dlka_med"):
        network = first_network(changed(ours, start_from=str(run.path))).eval()
    assert "reordered" in caplog.text
    image = torch.rand(1, 3, *ours.training.patch_size)
    with torch.no_grad():
        expected = run.load_network()(image)
        torch.testing.assert_close(network(image[:, [1, 2, 0]]), expected, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(network(image), expected, rtol=1e-2, atol=1e-2)


def test_channels_that_also_pass_by_the_first_weights_cannot_be_reordered(known, tmp_path):
    """With as many channels as the full-resolution block has, the block adds the image itself."""
    theirs = changed(known, "dataset", channels=("A", "B", "C", "D"))
    ours = changed(known, "dataset", channels=("D", "B", "C", "A"))
    run = run_with_other_weights(theirs, tmp_path / "run")
    with pytest.raises(InputError, match=r"cannot be reordered: name them in the order \['A', 'B', 'C', 'D'\]"):
        first_network(changed(ours, start_from=str(run.path)))


def test_other_channels_are_refused_or_said(known, other, caplog):
    mistaken = changed(changed(known, "dataset", channels=("CT",)), start_from=str(other.path))
    with pytest.raises(InputError, match=r"are \['MRI'\], this one has \['CT'\](.|\n)*start_partially"):
        first_network(mistaken)
    with caplog.at_level(logging.INFO, "dlka_med"):
        network = first_network(changed(mistaken, start_partially=True))
    assert "place by place" in caplog.text
    assert all(torch.equal(t, network.state_dict()[name]) for name, t in other.load_weights().items())


def test_weights_that_have_seen_the_held_out_cases_are_refused(known, other, balls, caplog):
    cases = read_dataset(balls).cases
    config = changed(known, start_from=str(other.path))
    Provenance().joined(cases[:4]).save(other)
    with pytest.raises(InputError, match=r"trained on 2 of the 4 cases .* such as ball_2, .*choose the dataset\.fold"):
        first_network(config, cases[2:])
    first_network(config, cases[4:])
    assert caplog.text == ""
    Provenance(frozenset({("ball_5", "another image")})).save(other)
    first_network(config, cases[4:])
    assert "trained on cases with the names of 1 that validate or test here, such as ball_5" in caplog.text
    Provenance(complete=False).save(other)
    first_network(config, cases[4:])
    assert "nobody recorded which cases trained" in caplog.text


def test_a_start_across_folds_is_refused_through_chains(config, finished, tmp_path):
    """Fold 1 validates on cases of fold 0's training; a third run inherits what its forebears have seen."""
    config = changed(config, epochs=1, steps_per_epoch=1, start_from=str(finished.path))
    with pytest.raises(InputError, match=r"were trained on 2 of the 2 cases that validate or test here"):
        train(changed(config, "dataset", fold=1), tmp_path / "leaking")
    assert not (tmp_path / "leaking").exists()
    second = train(
        changed(config, "dataset", test_cases=(finished.split["validation"][0],), fold="all"), tmp_path / "2"
    )
    assert {name for name, _ in Provenance.of_run(second).cases} == set(finished.split["train"])
    again = changed(config, start_from=str(second.path))
    with pytest.raises(InputError, match="were trained on 2"):
        train(changed(again, "dataset", fold=2), tmp_path / "leaking")
    everything = train(changed(again, "dataset", fold="all"), tmp_path / "3")
    assert len(Provenance.of_run(everything).cases) == 6


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_training_starts_there_even_if_its_first_epoch_is_interrupted(
    config, other, tmp_path, monkeypatch, interrupted
):
    monkeypatch.chdir(tmp_path)
    optimizer = config.training.optimizer.model_copy(update={"learning_rate": 1e-9})
    still = {"start_from": "other", "epochs": 1, "steps_per_epoch": 1, "optimizer": optimizer, "ema": None}
    config = changed(config, **still)
    if interrupted:
        with monkeypatch.context() as patch:
            patch.setattr(Safekeeping, "on_train_epoch_end", lambda *_: [][0])
            with pytest.raises(IndexError):
                train(config, tmp_path / "run")
    run = train(config, tmp_path / "run", resume=interrupted)
    assert run.config.training.start_from == str(other.path)
    start = other.load_weights()
    for name, random in build_run_network(run.config, pretrained=False).named_parameters():
        torch.testing.assert_close(run.load_weights()[name], start[name], rtol=0, atol=1e-6)
        assert not torch.equal(start[name], random)
    assert f"starting from {other.path}: {len(start)} tensors loaded" in run.log_file.read_text()
    assert "nobody recorded" in run.log_file.read_text()
    assert not Provenance.of_run(run).complete
    if not interrupted:
        other.weights_file.unlink()
        monkeypatch.chdir("/")
        train(changed(run.config, epochs=2), run.path, resume=True, extend=True)


def test_pretrained_weights_are_loaded_unless_others_replace_them(tmp_path, monkeypatch, known, caplog):
    asked = []

    def build(config, *, pretrained):
        asked.append(pretrained)
        return torch.nn.Linear(1, 1)

    monkeypatch.setattr("dlka_med.training.start.build_run_network", build)
    with caplog.at_level(logging.INFO, "dlka_med"):
        first_network(known)
    assert asked == [True]
    assert "starting with random weights" in caplog.text

"""Runs that fail are left out, told, and tried again."""

import json

import pytest

from dlka_med.comparing.folder import ComparisonFolder, RunKey
from dlka_med.errors import InputError, WriteError
from dlka_med.training.train import train


@pytest.fixture
def fail(monkeypatch):
    """`fail(wrong)`: trainings fail whose (network, seed, fold) is in `wrong`; an empty one: none any more."""
    wrong = set()

    def train_or_fail(config, out, **more):
        if (config.network.name, config.seed, config.dataset.fold) in wrong:
            raise InputError("the training loss became nan")
        return train(config, out, **more)

    monkeypatch.setattr("dlka_med.comparing.runs.train", train_or_fail)

    def _fail(*keys):
        wrong.clear()
        wrong.update(keys)

    return _fail


@pytest.mark.slow
def test_a_seed_that_fails_is_left_out_and_made_later(made, call, fail):
    fail(("unet", 2, 0))
    result = call(made.path, seeds=3)
    assert result.left_out == {"unet, seed 2, fold 0": "the training loss became nan"}
    assert [list(one.seeds) for one in result.networks.values()] == [[0, 1, 2], [0, 1]]
    assert result.lost == ()
    assert "unet, seed 2, fold 0" in json.loads(made.result_file.read_text())["left_out"]
    fail()
    result = call(made.path, seeds=3)
    assert result.left_out == {}
    assert list(result.networks["unet"].seeds) == [0, 1, 2]


@pytest.mark.slow
def test_a_fold_that_fails_is_compared_for_nobody(made, call, fail):
    fail(("unet", 1, 2))
    result = call(made.path, folds=(0, 2))
    assert len(result.lost) == 2
    assert set(result.lost) == set(made.run(RunKey("unet", 0, 2)).split["validation"])
    kept = set(made.run(RunKey("unet", 0, 0)).split["validation"])
    for one in result.networks.values():
        assert {row.case for row in one.mean.scores} == kept
        assert [{row.case for row in seed.scores} for seed in one.seeds.values()] == [kept] * 2
    fail()
    result = call(made.path, folds=(0, 2))
    assert (result.lost, result.first.cases, result.first.patients) == ((), 4, 2)


def test_without_any_run_of_a_network_there_is_nothing_to_compare(call, small, fail, tmp_path):
    fail(("unet", 0, 0))
    with pytest.raises(InputError, match=r"every run of unet was left out, .* the training loss became nan"):
        call(tmp_path / "out", seeds=1)


def test_a_full_disk_ends_it_all(made, call, monkeypatch):
    def full(*arguments, **more):
        raise WriteError("no space is left")

    monkeypatch.setattr("dlka_med.comparing.runs.train", full)
    with pytest.raises(WriteError, match="no space"):
        call(made.path, seeds=3)
    assert not made.outcome_file(RunKey("dlka_net_3d", 2, 0)).exists()


def test_after_a_run_that_was_ended_early_none_begins_and_none_is_left_out(call, small, end_early, tmp_path, caplog):
    folder = ComparisonFolder(tmp_path / "out")
    with end_early("out"):
        assert call(folder.path, seeds=1) is None
    assert "the same command goes on with the comparison" in caplog.text
    assert len([*folder.path.rglob("weights.safetensors")]) == 1
    assert not folder.result_file.exists()
    assert call(folder.path, seeds=1).left_out == {}

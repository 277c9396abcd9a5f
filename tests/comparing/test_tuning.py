"""The same small search for the learning rate of each network."""

import json
from dataclasses import replace

import pytest

from dlka_med.comparing.folder import ComparisonFolder, RunKey
from dlka_med.comparing.table import format_comparison
from dlka_med.comparing.tuning import FACTORS, OF_SEVERAL_FOLDS, Search, read_searches, tuned
from dlka_med.errors import InputError
from dlka_med.run_folder import RunFolder
from dlka_med.training.train import train as train_really

from .conftest import NETWORKS, light, small_plans


@pytest.fixture(scope="module")
def searched(call, tmp_path_factory):
    """A comparison of one seed whose rates were tuned."""
    folder = ComparisonFolder(tmp_path_factory.mktemp("searched") / "tuned")
    with pytest.MonkeyPatch.context() as patch:
        small_plans(patch)
        patch.setattr("dlka_med.comparing.costs.estimated_peak", light)
        return folder, call(folder.path, seeds=1, tune="lr")


def test_each_network_gets_the_best_of_its_rates(searched, call, trained, monkeypatch):
    folder, result = searched
    monkeypatch.setattr("dlka_med.comparing.costs.estimated_peak", light)
    searches = read_searches(folder)
    assert list(searches) == list(NETWORKS)
    for network, search in searches.items():
        planned = folder.read_configs(NETWORKS)[network].training.optimizer.learning_rate
        rates = [float(f"{planned * factor:.2g}") for factor in FACTORS]
        assert list(map(float, search.dice)) == pytest.approx(rates)
        runs = [RunFolder.open(folder.trial(network, rate).path) for rate in rates]
        assert [run.config.training.optimizer.learning_rate for run in runs] == rates
        dice = [float(run.weights_metadata["validation_dice"]) for run in runs]
        assert list(search.dice.values()) == dice
        assert search.chosen == rates[dice.index(max(dice))]
        run = folder.run(RunKey(network, 0, 0))
        assert run.config.training.optimizer.learning_rate == search.chosen
    assert result.summary()["tuning"]["unet"]["chosen"] == searches["unet"].chosen
    count = len(trained)
    call(folder.path, seeds=1, tune="lr")
    assert len(trained) == count, "nothing is searched again"
    with pytest.raises(InputError, match="tune is lr there and not given here"):
        call(folder.path, seeds=1)
    folder.tuning_file.write_text("{}")
    with pytest.raises(InputError, match=r"tuning.json is damaged .*remove it"):
        call(folder.path, seeds=1, tune="lr")
    folder.tuning_file.unlink()
    call(folder.path, seeds=1, tune="lr")
    assert len(trained) == count
    assert read_searches(folder) == searches


def test_what_is_compared_tunes_nothing(searched):
    folder, _ = searched
    compared = set(folder.run(RunKey("unet", 0, 0)).split["validation"])
    split = RunFolder.open(next((folder.path / "tuning" / "unet").glob("rate_*"))).split
    assert set(split["test"]) == compared
    assert not compared & {*split["train"], *split["validation"]}
    assert split["train"]
    assert split["validation"]


@pytest.mark.parametrize(("folds", "told"), [((0,), False), ((0, 1), True), (None, True)])
def test_folds_whose_cases_took_part_in_the_search_are_told(searched, monkeypatch, folds, told):
    folder, result = searched
    asked = replace(folder.read(), folds=folds)
    monkeypatch.setattr(ComparisonFolder, "read", lambda self: asked)
    assert (OF_SEVERAL_FOLDS in format_comparison(result)) == told
    assert (OF_SEVERAL_FOLDS[1:] in result.summary()["rule"]) == told
    monkeypatch.setattr(ComparisonFolder, "read", lambda self: replace(asked, tune=None))
    assert OF_SEVERAL_FOLDS not in format_comparison(result)


@pytest.mark.slow
def test_a_rate_that_cannot_be_trained_is_left_out(call, small, tmp_path, monkeypatch):
    def refuse(config, path, **more):
        if "tuning" in path.parts and (config.network.name == "unet" or path.name == "rate_0.006"):
            raise InputError("the loss is NaN")
        return train_really(config, path, **more)

    monkeypatch.setattr("dlka_med.comparing.runs.train", refuse)
    folder = ComparisonFolder(tmp_path / "tuned")
    call(folder.path, seeds=1, tune="lr")
    ours, theirs = read_searches(folder).values()
    assert set(theirs.dice.values()) == {None}
    assert theirs.chosen == 0.006
    assert [rate for rate, dice in ours.dice.items() if dice is None] == ["0.006"]
    assert ours.chosen in (0.002, 0.018)


def test_two_folds_are_too_few(made, monkeypatch):
    file = made.folds_file(NETWORKS[0])
    file.write_text(json.dumps(json.loads(file.read_text())[:2]))
    with pytest.raises(InputError, match="has 2 folds: to tune on cases that no comparison counts takes 3"):
        tuned(made, made.read(), made.read_configs(NETWORKS))


def test_an_edge_is_told():
    dice = {"0.006": 0.8, "0.002": 0.7, "0.018": 0.81}
    assert str(Search(dice, 0.006)) == "0.006"
    assert str(Search(dice, 0.018)) == "0.018, the highest tried"
    assert str(Search(dice, 0.002)) == "0.002, the lowest tried"


@pytest.mark.slow
def test_a_search_that_was_ended_early_knows_all_rates_in_the_end(call, small, end_early, tmp_path):
    folder = ComparisonFolder(tmp_path / "out")
    with end_early("tuning"):
        assert call(folder.path, seeds=1, tune="lr") is None
    assert not folder.tuning_file.exists()
    call(folder.path, seeds=1, tune="lr")
    assert all(None not in search.dice.values() for search in read_searches(folder).values())

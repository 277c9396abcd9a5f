"""The table to read, of a real result and of parts that lack."""

from dataclasses import replace

import pytest

from dlka_med.comparing.result import Contestant, seed_noise
from dlka_med.comparing.table import format_comparison, points_of


def test_the_table_says_all(made_once):
    _, result = made_once
    lines = format_comparison(result).splitlines()
    head = ["network", "Dice", "95% interval", "spread of seeds", "HD95 mm", "NSD 1 mm", "parameters", "estimated GiB"]
    assert [word for word in head if word not in lines[0]] == []
    assert [line.split()[0] for line in lines[1:3]] == ["dlka_net_3d", "unet"]
    assert "2 cases of 1 patients, 2 seeds" in lines
    assert "no interval below 10 patients" in lines
    assert "against unet, 2 cases of both:" in lines
    assert sum("one patient is too few to claim anything" in line or "too few to claim" in line for line in lines) == 3
    assert not any("of one seed" in line for line in lines)


def test_table_and_file_say_which_weights_were_compared(made_once):
    _, result = made_once
    assert "\nthe weights of each run are those of its end: none were chosen" in format_comparison(result)
    assert "The weights of each run are those of its end" in result.summary()["rule"]


def test_what_is_unknown_is_said(made_once):
    _, result = made_once
    first = result.networks["unet"]
    alone = Contestant(first.mean, {0: first.seeds[0]}, replace(first.costs, seconds_per_step=None))
    assert alone.spread is None
    lacking = replace(
        result, networks=dict(result.networks) | {"unet": alone}, left_out={"unet, seed 1, fold 0": "loss"}, lost=("a",)
    )
    text = format_comparison(lacking)
    assert "of one seed no spread is known: unet" in text
    assert "left out: unet, seed 1, fold 0: loss" in text
    assert "1 cases that some runs did not predict are compared for nobody" in text
    assert [point.name for point in points_of(lacking)] == ["dlka_net_3d"]


def test_the_noise_of_seeds_is_that_of_both(made_once):
    _, result = made_once

    def shifted(one, apart):
        dice = one.mean.mean["dice"].mean
        seeds = {}
        for seed, sign in enumerate((-1, 1)):
            moved = replace(one.mean.mean["dice"], mean=dice + sign * apart)
            seeds[seed] = replace(one.mean, mean=dict(one.mean.mean) | {"dice": moved})
        return replace(one, seeds=seeds)

    first, other = (shifted(one, apart) for one, apart in zip(result.networks.values(), (0.03, 0.04), strict=True))
    assert seed_noise(first, other) == pytest.approx(0.05)
    noisy = replace(result, networks={"dlka_net_3d": first, "unet": other})
    assert noisy.summary()["seed_noise"] == {"unet": pytest.approx(0.05)}
    assert seed_noise(first, Contestant(other.mean, {0: other.seeds[0]}, other.costs)) is None


def test_ranks_say_what_they_do_not_know(made_once):
    _, result = made_once
    told = "other seeds may rank otherwise"
    assert told not in format_comparison(result)
    networks = dict(result.networks)
    ranks = {"dice": {"dlka_net_3d": (1.0, (1.0, 2.0)), "unet": (2.0, (1.0, 2.0))}}
    networks["dlka_net_3d"] = replace(networks["dlka_net_3d"], mean=replace(result.first, ranks=ranks))
    assert told not in format_comparison(replace(result, networks=networks)), "they hold the spread of two seeds"
    other = networks["unet"]
    networks["unet"] = Contestant(other.mean, {0: other.seeds[0]}, other.costs)
    assert told in format_comparison(replace(result, networks=networks))

"""Small words that the tests of runs share."""

import csv
import sys

import torch


def changed(config, section="training", **values):
    """The config with other values in one of its sections."""
    return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})


def rows_of(run):
    """The lines of a run's metrics.csv."""
    with run.metrics_file.open() as file:
        return list(csv.DictReader(file))


def assert_same_weights(one, other):
    """Two runs keep equal weights, with equal words on them."""
    ours, theirs = one.load_weights(), other.load_weights()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert one.weights_metadata == other.weights_metadata


def command(config_file, out, *more):
    """What a user types to train."""
    return [sys.executable, "-m", "dlka_med", "train", str(config_file), "--out", str(out), *more]

"""Small words that the tests of runs share."""

import csv
import sys


def changed(config, section="training", **values):
    """The config with other values in one of its sections."""
    return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})


def rows_of(run):
    """The lines of a run's metrics.csv."""
    with run.metrics_file.open() as file:
        return list(csv.DictReader(file))


def command(config_file, out, *more):
    """What a user types to train."""
    return [sys.executable, "-m", "dlka_med", "train", str(config_file), "--out", str(out), *more]

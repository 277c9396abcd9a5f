"""The words of a training: on the screen, and in the run's log."""

import logging

import pytest

from dlka_med.run_folder import RunFolder
from dlka_med.training.log import training_words
from dlka_med.training.train import train

log = logging.getLogger("dlka_med")


def test_the_log_of_a_failed_run_is_closed(config, tmp_path, stop_after):
    before, level = list(log.handlers), log.level
    with stop_after(epoch=1):
        train(config, tmp_path / "run")
    assert (log.handlers, log.level) == (before, level)


def test_what_is_said_before_the_run_folder_is_made_stands_in_its_log(tmp_path):
    run = RunFolder(tmp_path / "run")
    with training_words(run):
        log.info("first words")
        run.path.mkdir()
        log.warning("second words")
        run.config_file.touch()
        log.info("third words")
    with training_words(run):
        log.info("last words")
    log.warning("of something else")
    found = run.log_file.read_text()
    assert [line.split("  ")[1] for line in found.splitlines()] == [
        "first words",
        "second words",
        "third words",
        "last words",
    ]


def test_a_run_that_is_refused_leaves_no_log(tmp_path):
    with pytest.raises(ZeroDivisionError), training_words(RunFolder(tmp_path / "run")):
        raise ZeroDivisionError(log.warning("words"))
    assert list(tmp_path.iterdir()) == []

"""Seconds per step from the table of a run."""

import pytest

from dlka_med.comparing.costs import pace_of
from dlka_med.run_folder import RunFolder


def test_validations_do_not_count_and_the_clock_starts_after_the_first_step(tmp_path):
    run = RunFolder(tmp_path)
    run.metrics_file.write_text(
        "epoch,step,minutes,validation_seconds\n1,10,0.5,\n2,20,1.5,12\n3,31,3.0,18\n", encoding="utf-8"
    )
    assert pace_of(run) == (31, pytest.approx((180 - 30) / 30))


def test_of_a_single_step_no_time_is_known(tmp_path):
    run = RunFolder(tmp_path)
    run.metrics_file.write_text("epoch,step,minutes\n1,1,0.0\n", encoding="utf-8")
    assert pace_of(run) == (1, None)

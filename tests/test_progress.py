import logging

from dlka_med.progress import progress


def test_lines_from_the_first_fraction_to_the_end(caplog):
    with caplog.at_level(logging.INFO, "dlka_med"):
        show = progress("predicting", line_every=-1)
        for done in (0, 1e-9, 0.999, 1, 2, 2):
            show(done, 2)
    assert len(caplog.messages) == 4
    assert caplog.messages[1].startswith("predicting: 0 of 2 cases, ")
    assert caplog.messages[-1].startswith("predicting: 2 cases in")

import logging

from dlka_med.progress import progress, within


def test_lines_from_the_first_fraction_to_the_end(caplog):
    with caplog.at_level(logging.INFO, "dlka_med"):
        show = progress("predicting", line_every=-1)
        for done in (0, 1e-9, 0.999, 1, 2, 2):
            show(done, 2)
    assert len(caplog.messages) == 4
    assert caplog.messages[1].startswith("predicting: 0 of 2 cases, ")
    assert caplog.messages[-1].startswith("predicting: 2 cases in")


def test_steps_are_shares_of_a_unit_and_the_last_leaves_it_unfinished():
    shown = []
    show = within(lambda done, total: shown.append((done, total)), 3, 10)
    for step in (1, 2, 4):
        show(step, 4)
    assert shown == [(3.25, 10), (3.5, 10)]

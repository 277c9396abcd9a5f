"""Budgets and the words for them."""

from dlka_med.planning.choice import Budget, Choice, gib, nested, shape, span


def test_minutes_are_left_to_training_but_for_validations():
    assert Budget("cpu", 1, minutes=20).steps(1.0) == 1020
    assert Budget("cpu", 1, epochs=4).steps(1.0) == 1000


def test_keys_become_a_tree():
    choices = {"a": Choice(1, ""), "b.c": Choice([2], ""), "b.d.e": Choice(None, "")}
    assert nested(choices) == {"a": 1, "b": {"c": [2], "d": {"e": None}}}


def test_sizes_and_times_are_told_as_people_read_them():
    assert [gib(2**30 * n) for n in (0.52, 4, 78)] == ["0.52 GiB", "4 GiB", "78 GiB"]
    assert [span(n) for n in (0.731, 90, 300, 20_000, 10**6)] == ["0.73 s", "90 s", "5 minutes", "5.6 hours", "12 days"]
    assert [gib(2**30 * n) for n in (9.97, 99.7)] == ["10 GiB", "100 GiB"]
    assert [span(n) for n in (99.7, 6000, 8.64e6)] == ["100 s", "100 minutes", "100 days"]
    assert shape((2048, 15_000, 0.78125)) == "2048x15000x0.781"

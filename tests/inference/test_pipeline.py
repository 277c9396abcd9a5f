"""Three steps of many items: their order, what overlaps, what happens to errors."""

import threading
import time

import pytest

from dlka_med.inference.pipeline import overlapped

ALL, NONE = (lambda *_: (True, True)), (lambda *_: (False, False))


class Steps:
    """Notes when each step begins and ends, and fails where it is told."""

    def __init__(self, failing=()):
        self.events, self.failing, self.wrote = [], dict(failing), {}

    def note(self, step, item):
        self.events.append((step, item))
        if (step, item) in self.failing:
            raise self.failing[step, item]

    def read(self, item):
        self.note("read", item)
        return 10 * item

    def work(self, item, given):
        read = given()
        self.note("work", item)
        return read + 1

    def write(self, item, result):
        self.note("write", item)
        self.wrote[item] = result

    def run(self, items, beside=ALL):
        return [*overlapped(items, self.read, self.work, self.write, beside)]


@pytest.mark.parametrize("beside", [ALL, NONE])
@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_every_item_passes_all_steps_in_its_turn(beside, count):
    steps = Steps()
    assert steps.run([*range(count)], beside) == [(item, None) for item in range(count)]
    assert steps.wrote == {item: 10 * item + 1 for item in range(count)}
    assert [item for step, item in steps.events if step == "work"] == [*range(count)]


def test_without_room_nothing_overlaps():
    steps = Steps()
    steps.run([0, 1, 2], NONE)
    assert steps.events == [(step, item) for item in range(3) for step in ("read", "work", "write")]


@pytest.mark.parametrize("beside", [ALL, NONE])
@pytest.mark.parametrize("step", ["read", "work", "write"])
@pytest.mark.parametrize("bad", [0, 1, 3])
def test_an_error_is_told_with_its_item_and_the_others_go_on(beside, step, bad):
    error = ValueError(step)
    steps = Steps({(step, bad): error})
    assert steps.run([*range(4)], beside) == [(item, error if item == bad else None) for item in range(4)]
    assert steps.wrote.keys() == set(range(4)) - {bad}


def test_one_is_read_ahead_and_one_written_behind_but_no_more():
    """The second item is worked on while the third is read and the first is written."""
    read, written, seen = threading.Event(), threading.Event(), []
    steps = Steps()

    def read_and_tell(item):
        if item == 2:
            read.set()
        return steps.read(item)

    def work(item, given):
        given()
        if item == 1:
            assert read.wait(20)
            assert written.wait(20)
            time.sleep(0.05)
            seen.extend(steps.events)
        return item

    def write_and_tell(item, result):
        steps.note("write", item)
        written.set()

    assert len([*overlapped([*range(6)], read_and_tell, work, write_and_tell, ALL)]) == 6
    assert sorted(seen) == [("read", 0), ("read", 1), ("read", 2), ("write", 0)]


def test_what_may_overlap_is_asked_of_every_item_with_its_neighbours():
    asked = []
    Steps().run([1, 2, 3], lambda *neighbours: asked.append(neighbours) or (True, True))
    assert asked == [(None, 1, 2), (1, 2, 3), (2, 3, None)]


def test_what_is_being_written_is_written_to_its_end_when_the_keyboard_stops_the_work():
    steps, begun = Steps(), threading.Event()

    def write_slowly(item, result):
        begun.set()
        time.sleep(0.05)
        steps.wrote[item] = result

    def work(item, given):
        if item == 1:
            assert begun.wait(20)
            raise KeyboardInterrupt
        return given()

    with pytest.raises(KeyboardInterrupt):
        list(overlapped([0, 1, 2, 3], steps.read, work, write_slowly, ALL))
    assert steps.wrote == {0: 0}
    assert ("read", 3) not in steps.events

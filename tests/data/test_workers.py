import os
import signal

import pytest
import torch

from dlka_med.data.workers import in_workers
from dlka_med.errors import InputError, WriteError


def work(job: int) -> tuple[int, int]:
    if job < 0:
        raise InputError(f"job {job} is negative")
    if job == 100:
        raise KeyError("the mistake of the programmer")
    if job == 150:
        raise MemoryError("Unable to allocate 9 TiB")
    if job == 200:
        os._exit(9)
    return job * job, torch.get_num_threads()


@pytest.mark.parametrize("workers", [0, 2])
def test_results_in_order_with_progress(workers):
    seen = []
    results = in_workers(work, [3, 1, 2], workers, lambda done, total: seen.append((done, total)))
    squares, threads = zip(*results, strict=True)
    assert squares == (9, 1, 4)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert workers == 0 or set(threads) == {1}


@pytest.mark.parametrize("workers", [0, 2])
def test_all_mistakes_of_the_user_are_named(workers):
    done = []
    with pytest.raises(InputError, match=r"2 of 4 cases cannot be used:\njob -1 is negative\njob -7 is negative"):
        done.extend(in_workers(work, [1, -1, 2, -7], workers))
    assert [square for square, _ in done] == [1, 4]
    with pytest.raises(InputError, match=r"^job -1 is negative$"):
        list(in_workers(work, [-1, 3], workers))


def test_the_traceback_of_the_worker_is_kept():
    with pytest.raises(KeyError, match="programmer") as caught:
        list(in_workers(work, [1, 100], 2))
    assert "test_workers.py" in str(caught.value.__cause__)
    assert "in work" in str(caught.value.__cause__)


def test_a_killed_worker():
    with pytest.raises(InputError, match="the system killed one of 2 worker processes"):
        list(in_workers(work, [1, 200], 2))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_lack_of_memory_is_told_after_the_others(workers):
    done = []
    with pytest.raises(InputError, match=r"^150: there is not enough memory \(Unable to allocate 9 TiB\): use fewer"):
        done.extend(in_workers(work, [150, 2], workers))
    assert [square for square, _ in done] == [4]


def interrupt(job: int) -> int:
    os.kill(os.getpid(), signal.SIGINT)
    return job


def test_ctrl_c_is_for_the_parent():
    assert list(in_workers(interrupt, [1, 2], 2)) == [1, 2]


def fill_disk(job: int) -> int:
    if job == 2:
        raise WriteError("the disk is full")
    return job


@pytest.mark.parametrize("workers", [0, 2])
def test_a_full_disk_ends_the_work_at_once(workers):
    done = []
    with pytest.raises(WriteError, match=r"^the disk is full$"):
        done.extend(in_workers(fill_disk, [1, 2, 3, 4], workers))
    assert done == [1]

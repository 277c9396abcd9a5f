"""The same function for every case, in this process or in several."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import TypeVar

import torch

from dlka_med.errors import InputError, WriteError

Job = TypeVar("Job")
Result = TypeVar("Result")
LISTED = 20

Progress = Callable[[int, int], None]


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_workers(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int = 0, progress: Progress | None = None
) -> Iterator[Result]:
    """Results in the order of the jobs; `progress(done, total)` is called after each.

    `function` and the jobs must be picklable. All jobs are tried before the mistakes of the user are reported
    together; a full disk or any other exception ends the work at once, with the worker's own traceback.

    Raises:
        InputError: the mistakes found in the jobs and those that found no memory, one per line, the first 20 of them;
            or, at once, that the system killed a worker.
        WriteError: the first one, at once: the jobs that follow would fail as well.
    """
    mistakes: list[str] = []
    for done, outcome in enumerate(_outcomes(partial(_attempt, function), jobs, workers), 1):
        if progress is not None:
            progress(done, len(jobs))
        if isinstance(outcome, WriteError):
            raise outcome
        if isinstance(outcome, InputError):
            mistakes.append(str(outcome))
        else:
            yield outcome
    if len(mistakes) == 1:
        raise InputError(mistakes[0])
    if mistakes:
        more = f"\n... and {len(mistakes) - LISTED} more" if len(mistakes) > LISTED else ""
        listed = "\n".join(mistakes[:LISTED])
        raise InputError(f"{len(mistakes)} of {len(jobs)} cases cannot be used:\n{listed}{more}")


def _outcomes(
    attempt: Callable[[Job], Result | InputError], jobs: Sequence[Job], workers: int
) -> Iterator[Result | InputError]:
    if workers < 2 or len(jobs) < 2:
        yield from map(attempt, jobs)
        return
    pool = ProcessPoolExecutor(min(workers, len(jobs)), initializer=_start_worker)
    try:
        yield from pool.map(attempt, jobs)
    except BrokenProcessPool as error:
        raise InputError(
            f"the system killed one of {workers} worker processes, most likely for lack of memory: use fewer workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    torch.set_num_threads(1)
    # Ctrl-C reaches the whole process group; the parent alone ends the work.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _attempt(function: Callable[[Job], Result], job: Job) -> Result | InputError:
    try:
        return function(job)
    except InputError as mistake:
        return mistake
    except MemoryError as lack:
        name, said = getattr(job, "id", job), str(lack) or "MemoryError"
        return InputError(
            f"{name}: there is not enough memory ({said}): use fewer workers, or cut the image to what matters"
        )

"""Work spread over threads: those of torch itself where they can be had, else a pool of our own.

After a parallel operation of torch its OpenMP threads spin for some milliseconds, waiting for more, and take the
cores away from any other threads. Work handed to them instead starts at once. GNU OpenMP, and what imitates it,
has one entry point for that; in a forked process it must not be called, as torch must not compute there either.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Lock

import torch

ENTRY = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
forked = False


class Work:
    """Calls still to be made, handed out one by one; the first error ends it."""

    def __init__(self, function: Callable[[object], None], items: Sequence[object]) -> None:
        self.function, self.items, self.lock = function, iter(items), Lock()
        self.error: BaseException | None = None

    def remaining(self) -> Iterator[object]:
        """Items that no other thread has taken."""
        while self.error is None:
            with self.lock:
                item = next(self.items, None)
            if item is None:
                return
            yield item

    def run(self) -> None:
        """What every thread does; in inference mode, so that tensors made in that mode may be written to."""
        try:
            with torch.inference_mode():
                for item in self.remaining():
                    self.function(item)
        except BaseException as error:
            self.error = error


def parallel(function: Callable[[object], None], items: Sequence[object]) -> None:
    """Call `function` with every item, on as many threads as torch uses here."""
    threads = torch.get_num_threads()
    work = Work(function, items)
    if min(threads, len(items)) < 2:
        work.run()
    elif (team := None if forked else openmp()) is not None:
        team(ENTRY(lambda _: run_alone(work)), None, threads, 0)
    else:
        for done in [pool(threads).submit(work.run) for _ in range(threads)]:
            done.result()
    if work.error is not None:
        raise work.error


@functools.cache
def openmp() -> Callable | None:
    """`GOMP_parallel(function, data, threads, flags)` of the OpenMP library that torch has loaded, if it is there."""
    try:
        function = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):
        return None
    function.argtypes, function.restype = (ENTRY, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return function


def run_alone(work: Work) -> None:
    """What a thread of the team does: a product of matrices is its own, whatever MKL would like to share.

    `torch.set_num_threads` tells MKL of the calling thread alone: the others would divide a product in another way, and
    results depend on which thread computes them.
    """
    if (share := mkl_threads()) is None:
        work.run()
        return
    before = share(1)
    try:
        work.run()
    finally:
        share(before)


@functools.cache
def mkl_threads() -> Callable[[int], int] | None:
    """`MKL_Set_Num_Threads_Local(n)`, of the calling thread, which returns the former n; None if torch has no MKL."""
    try:
        return ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")).MKL_Set_Num_Threads_Local
    except (AttributeError, OSError):
        return None


@functools.cache
def pool(threads: int) -> ThreadPoolExecutor:
    """Threads on which torch itself stays single-threaded.

    `torch.set_num_threads` sets the calling thread, and the default of threads to come; the latter is put back.
    """
    ready = Barrier(threads)
    executor = ThreadPoolExecutor(threads, "deform_conv", torch.set_num_threads, (1,))
    for done in [executor.submit(ready.wait) for _ in range(threads)]:
        done.result()
    torch.set_num_threads(threads)
    return executor


def after_fork() -> None:
    """A forked process has none of its parent's threads."""
    global forked
    forked = True
    pool.cache_clear()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=after_fork)

"""Cases one after the other: while the network is at one, the next is read and the last one is written."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import zip_longest
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")
Result = TypeVar("Result")

Beside = Callable[[Item | None, Item, Item | None], tuple[bool, bool]]
"""Last item, this one, following one -> whether beside it the last may be written, and the following be read."""


def overlapped(
    items: Sequence[Item],
    read: Callable[[Item], Read],
    work: Callable[[Item, Callable[[], Read]], Result],
    write: Callable[[Item, Result], None],
    beside: Beside,
) -> Iterator[tuple[Item, Exception | None]]:
    """Read, work on and write each item, at most one read ahead and one written behind.

    Threads are enough: reading, zipping and resampling leave Python alone most of the time, and nothing is copied.
    Whatever ends the work early, what is being written is written to its end.

    Args:
        read: in a thread.
        work: in this thread; it takes the item and a call that gives what was read of it, or raises what went wrong.
        write: in a thread.

    Yields:
        Each item in its turn, when it is written, with None; or with the error of any of the three steps.
    """
    reader, writer = ThreadPoolExecutor(1, "read"), ThreadPoolExecutor(1, "write")
    ahead: Future[Read] | None = None
    last: tuple[Item, Future[None]] | None = None
    try:
        for item, following in zip_longest(items, items[1:]):
            writes, reads = beside(None if last is None else last[0], item, following)
            if last is not None and not writes:
                yield last[0], _error(last[1])
                last = None
            ready = ahead or reader.submit(read, item)
            ahead = reader.submit(read, following) if following is not None and reads else None
            error, result = None, None
            try:
                result = work(item, ready.result)
            except Exception as caught:
                error = caught
            del ready
            if last is not None:
                yield last[0], _error(last[1])
                last = None
            if error is None:
                last = item, writer.submit(write, item, result)
            else:
                yield item, error
            del error, result
        if last is not None:
            yield last[0], _error(last[1])
    finally:
        reader.shutdown(cancel_futures=True)
        writer.shutdown()


def _error(done: Future[None]) -> Exception | None:
    error = done.exception()
    if error is not None and not isinstance(error, Exception):
        raise error
    return error

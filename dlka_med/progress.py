"""Progress of long work: a bar on a terminal, timed lines in the log elsewhere."""

import logging
import sys
import time
from collections.abc import Callable

from tqdm import tqdm

BAR = "{desc} {percentage:3.0f}% |{bar}| {n:.0f}/{total} {unit}s {elapsed}<{remaining}"

log = logging.getLogger("dlka_med")


def progress(
    what: str, unit: str = "case", line_every: float = 15, closing_line: bool = True
) -> Callable[[float, int], None]:
    """A callback `(done, total)` that shows how far `what` has come; `done` may be a fraction of a unit.

    Args:
        line_every: seconds between two lines where there is no terminal.
        closing_line: whether the end is worth a line.
    """
    started = said = time.monotonic()
    bar: tqdm | None = None
    closed = False

    def show(done: float, total: int) -> None:
        nonlocal bar, said, closed
        if closed:
            return
        now = time.monotonic()
        if sys.stderr.isatty():
            if bar is None:
                bar = tqdm(total=total, desc=what, unit=unit, leave=False, bar_format=BAR)
            bar.update(done - bar.n)
            if done == total:
                bar.close()
        elif now - said > line_every and 0 < done < total:
            said = now
            left = (now - started) / done * (total - done) / 60
            log.info("%s: %d of %d %ss, %.1f min left", what, done, total, unit, left)
        closed = done == total
        if closed and closing_line:
            log.info("%s: %d %ss in %.1f s", what, total, unit, now - started)

    return show


def within(show: Callable[[float, int], None], done: int, total: int) -> Callable[[int, int], None]:
    """A callback for the steps of the unit after `done`; its last step leaves the unit to be finished."""

    def show_step(step: int, steps: int) -> None:
        if step < steps:
            show(done + step / steps, total)

    return show_step

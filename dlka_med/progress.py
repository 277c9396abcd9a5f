"""Progress over many cases: a bar on a terminal, timed lines in the log elsewhere."""

import logging
import sys
import time
from collections.abc import Callable

from tqdm import tqdm

LINE_EVERY = 15  # seconds between two lines

log = logging.getLogger("dlka_med")


def case_progress(what: str) -> Callable[[int, int], None]:
    """A callback `(done, total)` that shows how far `what` has come."""
    started = said = time.monotonic()
    bar: tqdm | None = None

    def show(done: int, total: int) -> None:
        nonlocal bar, said
        now = time.monotonic()
        if sys.stderr.isatty():
            bar = bar or tqdm(total=total, desc=what, unit="case", leave=False)
            bar.update(done - bar.n)
            if done == total:
                bar.close()
        elif now - said > LINE_EVERY and done < total:
            said = now
            log.info(
                "%s: %d of %d, %.1f min left", what, done, total, (now - started) / done * (total - done) / 60
            )
        if done == total:
            log.info("%s: %d cases in %.1f s", what, total, now - started)

    return show

"""Ctrl-C and SIGTERM during training: say how to go on, and end as a program should."""

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import SIGTERMException

from dlka_med.run_folder import RunFolder

SIGTERM_EXIT = 128 + signal.SIGTERM

log = logging.getLogger("dlka_med")


class Interruption(pl.Callback):
    """Remembers what ended a run, which Lightning turns into a plain exit."""

    def __init__(self) -> None:
        self.cause: BaseException | None = None

    def on_exception(self, trainer: pl.Trainer, task: pl.LightningModule, exception: BaseException) -> None:
        self.cause = exception

    @contextmanager
    def told(self, run: RunFolder) -> Iterator[None]:
        """Around the training: after an interruption name the command that goes on.

        Raises:
            KeyboardInterrupt: after Ctrl-C.
            SystemExit: with code 143 after SIGTERM.
        """
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        except (SystemExit, KeyboardInterrupt) as end:
            if run.config_file.is_file():
                where = "after its last finished epoch" if run.checkpoint_file.is_file() else "from its beginning"
                log.warning("interrupted: dlka train %s --resume goes on %s", run.path, where)
            if isinstance(self.cause or end, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            if isinstance(self.cause or end, SIGTERMException):
                raise SystemExit(SIGTERM_EXIT) from None
            raise
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

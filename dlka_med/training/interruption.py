"""What ends a training early: Ctrl-C and SIGTERM at once, a file or SIGUSR1 with a validated result."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import SIGTERMException

from dlka_med.run_folder import RunFolder

WISHES = [signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []
SIGTERM_EXIT = 128 + signal.SIGTERM

log = logging.getLogger("dlka_med")


class EndedEarly(Exception):
    """Somebody has ended a training, and so the many that it is one of; the same call goes on with all of them."""


class Interruption(pl.Callback):
    """Remembers what ended a run, which Lightning turns into a plain exit, and who asked for its end."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.cause: BaseException | None = None
        self._signalled = False

    def asked(self) -> bool:
        """Whether the run is to end with this step: there is its file `stop`, or SIGUSR1 came."""
        return self._signalled or self.run.stop_file.exists()

    def on_exception(self, trainer: pl.Trainer, task: pl.LightningModule, exception: BaseException) -> None:
        self.cause = exception

    @contextmanager
    def told(self) -> Iterator[None]:
        """Around the training and what prepares it: listen, and after an interruption name the command that goes on.

        Raises:
            KeyboardInterrupt: after Ctrl-C.
            SystemExit: with code 143 after SIGTERM.
        """
        run, numbers = self.run, [signal.SIGINT, signal.SIGTERM, *WISHES]
        handlers = {number: signal.getsignal(number) for number in numbers}
        self._forget()
        if threading.current_thread() is threading.main_thread():
            for number in WISHES:
                signal.signal(number, self._note)
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
            self._forget()
            if threading.current_thread() is threading.main_thread():
                for number, handler in handlers.items():
                    signal.signal(number, handler)

    @rank_zero_only
    def _forget(self) -> None:
        self.run.stop_file.unlink(missing_ok=True)

    def _note(self, number: int, frame: object) -> None:
        self._signalled = True

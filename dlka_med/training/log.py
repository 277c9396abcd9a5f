"""Where the words of a training go: to the screen, and to the log of its run."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from logging.handlers import MemoryHandler
from pathlib import Path

from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.warnings import PossibleUserWarning

from dlka_med.run_folder import RunFolder

LIGHTNING = ("pytorch_lightning", "lightning_fabric", "lightning.pytorch")

log = logging.getLogger("dlka_med")


class LogFile(logging.FileHandler):
    """Appends lines with their time; a full disk costs the line, and is told by those who write what matters."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", delay=True)
        self.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S"))

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing: the line is on the screen already."""

    def close(self) -> None:
        with suppress(OSError):
            super().close()


class RunLog(MemoryHandler):
    """Appends lines to a run's `log.txt`; those from before the run folder was made wait for it."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        super().__init__(capacity=0, target=LogFile(run.log_file), flushOnClose=False)

    def shouldFlush(self, record: logging.LogRecord) -> bool:
        return self.run.config_file.is_file()

    def close(self) -> None:
        if self.run.config_file.is_file():
            self.flush()
        if self.target is not None:
            self.target.close()
        super().close()


@contextmanager
def training_words(run: RunFolder) -> Iterator[None]:
    """Our lines go to the run's log, and to the screen even if nobody set up logging; of Lightning only errors show."""
    level, others = log.level, [logging.getLogger(name) for name in LIGHTNING]
    levels = [logger.level for logger in others]
    ours: list[logging.Handler] = [] if log.hasHandlers() else [logging.StreamHandler()]
    if rank_zero_only.rank == 0:
        ours.append(RunLog(run))
    for logger in others:
        logger.setLevel(logging.ERROR)
    for handler in ours:
        log.addHandler(handler)
    if not log.isEnabledFor(logging.INFO):
        log.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=PossibleUserWarning)
            warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
            yield
    finally:
        for handler in ours:
            log.removeHandler(handler)
            handler.close()
        for logger, before in zip([log, *others], [level, *levels], strict=True):
            logger.setLevel(before)

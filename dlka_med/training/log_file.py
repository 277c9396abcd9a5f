"""The lines of a run in its own folder."""

import logging
from contextlib import suppress
from pathlib import Path


class LogFile(logging.FileHandler):
    """Appends lines with their time; a full disk costs the line, and is told by those who write what matters."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8")
        self.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S"))

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing: the line is on the screen already."""

    def close(self) -> None:
        with suppress(OSError):
            super().close()

"""A component's own log file, turned over when it is full.

Neighbours: the controller keeps one for the driver; engines, trainer ranks and reward workers keep one in their actors.
Invariants: a file is written by one process; what is logged elsewhere (terminal, Ray's files) stays as it was.
"""

from __future__ import annotations

import faulthandler
import logging
import os
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
SIZE_VARIABLE, COUNT_VARIABLE = "MGRD_LOG_MAX_MB", "MGRD_LOG_BACKUPS"
DEFAULT_MB, DEFAULT_COUNT = 16.0, 3
PACKAGES = ("rollout", "rewards", "actor", "orchestrator")


@dataclass(frozen=True, slots=True)
class LogFile:
    """Where a component logs. max_bytes: it is turned over at this size; backups: so many old ones are kept."""

    path: str
    max_bytes: int
    backups: int

    @classmethod
    def of(cls, folder: Path, component: str) -> LogFile:
        """`rollout/0` logs to FOLDER/rollout-0.log; sizes by environment (`MGRD_LOG_MAX_MB`, `MGRD_LOG_BACKUPS`)."""
        megabytes = float(os.environ.get(SIZE_VARIABLE) or DEFAULT_MB)
        backups = int(os.environ.get(COUNT_VARIABLE) or DEFAULT_COUNT)
        return cls(str(folder / f"{component.replace('/', '-')}.log"), int(megabytes * (1 << 20)), backups)

    def open(self) -> logging.Handler:
        """A handler that writes there; its folder is created."""
        Path(self.path).parent.mkdir(parents=True, exist_ok=True)
        handler = RotatingFileHandler(self.path, maxBytes=self.max_bytes, backupCount=self.backups, encoding="utf-8")
        handler.setFormatter(logging.Formatter(FORMAT))
        return handler


def log_to(file: LogFile | None) -> None:
    """From now on this process logs there, warnings of others and everything of ours; None: nothing changes. For processes that are
    one component from start to end. A fatal signal leaves the stacks of all threads in Ray's file of the process."""
    if file is None:
        return
    handler = file.open()
    logging.getLogger().addHandler(handler)
    for name in PACKAGES:
        logging.getLogger(name).setLevel(logging.INFO)
    faulthandler.enable()
    logging.getLogger(__name__).info("process %d", os.getpid())


class DriverLog:
    """While open, this process logs there, too; what the terminal shows stays as it was. A context manager."""

    def __init__(self, file: LogFile) -> None:
        self._file = file
        self._levels: list[tuple[logging.Handler | logging.Logger, int]] = []
        self._handler: logging.Handler | None = None

    def __enter__(self) -> None:
        root = logging.getLogger()
        self._handler = self._file.open()
        shown = root.getEffectiveLevel()
        for handler in root.handlers:
            if handler.level == logging.NOTSET:
                self._set(handler, shown)
        for name in PACKAGES:
            logger = logging.getLogger(name)
            if logger.getEffectiveLevel() > logging.INFO:
                self._set(logger, logging.INFO)
        root.addHandler(self._handler)

    def __exit__(self, *_: object) -> None:
        assert self._handler is not None
        logging.getLogger().removeHandler(self._handler)
        self._handler.close()
        for owner, level in self._levels:
            owner.setLevel(level)
        self._levels.clear()

    def _set(self, owner: logging.Handler | logging.Logger, level: int) -> None:
        self._levels.append((owner, owner.level))
        owner.setLevel(level)

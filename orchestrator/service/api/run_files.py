"""What a run's directory tells while the run writes it: policy updates, the report, logs.

Neighbours: `files` and `comparing` serve it; `orchestrator.rundir` and the log handlers write. Invariants: reads only; a line that is not
finished is left for later; a log is followed over any number of turn-overs without losing or repeating a line that is still there.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from orchestrator.run_report import report_metrics
from orchestrator.rundir import RunDirectory
from orchestrator.service.answers import PolicyUpdate

COMPONENT_PATTERN = r"^[a-z][a-z_]{0,30}(/\d{1,5})?$"
LOG_NAME = re.compile(r"([a-z][a-z_]{0,30})(?:-(\d{1,5}))?\.log")
BLOCK = 1 << 16
MAX_TAIL_BYTES = 8 << 20  # of one answer
POLL_S = 0.3  # how late a followed line is
ASK_S = 2.0  # how often the store is asked whether the run goes on
LAST_S = 1.0  # for what is written last, after the store knows of the end


def updates(folder: Path) -> list[PolicyUpdate]:
    """By number; [] before the first. Lines that can't be read are left out: a run may be writing them."""
    try:
        text = RunDirectory(folder).updates_file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    found = {}
    for line in text.split("\n")[:-1]:
        try:
            record = msgspec.json.decode(line)
            update = PolicyUpdate(
                int(record["update"]),
                str(record.get("stage", "")),
                float(record.get("at") or 0.0),
                _numbers(record.get("metrics", {})),
            )
        except (msgspec.MsgspecError, KeyError, TypeError, ValueError, AttributeError):
            continue
        found[update.update] = update
    return [found[number] for number in sorted(found)]


def final_metrics(folder: Path) -> dict[str, float]:
    """Of the report, where the run has ended; else of the last policy update; {} before that."""
    try:
        report: dict[str, Any] = msgspec.json.decode(RunDirectory(folder).report_file.read_bytes())
        metrics = _numbers(report_metrics(report))
    except (OSError, msgspec.MsgspecError, KeyError, TypeError, AttributeError):
        metrics = {}
    done = updates(folder)
    last = {f"last/{name}": value for name, value in done[-1].metrics.items()} if done else {}
    return metrics | last | ({"policy_updates": float(len(done))} if done else {})


def components(folder: Path) -> list[str]:
    """Components that have a log, the driver first, then by name and number."""
    try:
        names = os.listdir(RunDirectory(folder).logs)
    except OSError:
        return []
    found = [(match[1], int(match[2]) if match[2] else -1) for name in names if (match := LOG_NAME.fullmatch(name))]
    ordered = sorted(found, key=lambda one: (one[0] != "driver", one))
    return [name if number < 0 else f"{name}/{number}" for name, number in ordered]


class LogFile:
    """One component's log and its turned-over files (`.1` the newest). component: as `COMPONENT_PATTERN` has it."""

    def __init__(self, folder: Path, component: str) -> None:
        self.path = RunDirectory(folder).logs / f"{component.replace('/', '-')}.log"
        self._inode, self._at = 0, 0

    def tail(self, lines: int) -> bytes:
        """The last lines, of older files where need be; what is followed goes on behind them."""
        parts: list[bytes] = []
        missing, room = lines, MAX_TAIL_BYTES
        for path in self._newest_first():
            try:
                with path.open("rb") as file:
                    size = os.fstat(file.fileno()).st_size
                    if path == self.path:
                        self._inode, self._at = os.fstat(file.fileno()).st_ino, size
                    if missing <= 0 or room <= 0:
                        break
                    part = _last_lines(file.fileno(), size, missing, room)
            except OSError:
                continue
            parts.append(part)
            missing -= part.count(b"\n") + (not part.endswith(b"\n") and bool(part))
            room -= len(part)
        return b"".join(reversed(parts))

    async def follow(self, over: Callable[[], Awaitable[bool]]) -> AsyncIterator[bytes]:
        """What is appended from now on, until `over` says that nobody writes any more."""
        asked = loop_time() - ASK_S
        ending = math.inf
        while True:
            part = await asyncio.to_thread(self._new)
            if part:
                yield part
                continue
            if loop_time() >= ending:
                return
            if ending == math.inf and loop_time() - asked >= ASK_S:
                asked = loop_time()
                if await over():
                    ending = loop_time() + LAST_S
            await asyncio.sleep(POLL_S)

    def _new(self) -> bytes:
        """What was written since the last call; first the rest of the file that was turned over meanwhile."""
        try:
            here = self.path.stat()
        except OSError:
            return b""
        if self._inode and here.st_ino != self._inode:
            rest = self._rest_of_old()
            if rest:
                return rest
            self._inode, self._at = here.st_ino, 0
        elif here.st_size < self._at:  # emptied in place
            self._at = 0
        self._inode = here.st_ino
        return self._read(self.path)

    def _rest_of_old(self) -> bytes:
        for path in self._newest_first()[1:]:
            try:
                if path.stat().st_ino == self._inode:
                    return self._read(path)
            except OSError:
                continue
        return b""

    def _read(self, path: Path) -> bytes:
        try:
            with path.open("rb") as file:
                file.seek(self._at)
                part = file.read(16 * BLOCK)
        except OSError:
            return b""
        self._at += len(part)
        return part

    def _newest_first(self) -> list[Path]:
        found = [self.path]
        for number in range(1, 100):
            old = self.path.with_name(f"{self.path.name}.{number}")
            if not old.exists():
                break
            found.append(old)
        return found


def loop_time() -> float:
    return asyncio.get_running_loop().time()


def _last_lines(descriptor: int, size: int, lines: int, room: int) -> bytes:
    data, at = b"", size
    while at > 0 and len(data) < room:
        step = min(BLOCK, at)
        at -= step
        data = os.pread(descriptor, step, at) + data
        if data.count(b"\n") > lines:
            break
    kept = data.split(b"\n")
    wanted = lines + (1 if data.endswith(b"\n") else 0)
    return b"\n".join(kept[-wanted:])[-room:]


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    return {
        name: float(value) for name, value in values.items() if isinstance(value, int | float) and math.isfinite(value)
    }

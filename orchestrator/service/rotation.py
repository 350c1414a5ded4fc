"""Log files that stay small while their writers keep them open.

Neighbours: the supervisor turns its own log and those of its processes. Invariants: a writer that appends is never interrupted; at most
`backups` old files are kept, the newest is `.1`; what is written in the instant between copy and cut, well under a millisecond, is lost.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

KEEP_TAIL = 1 << 30  # bytes: a file that grew past this between two looks is cut to its end, not copied whole


def rotate(path: Path, limit_bytes: int, backups: int) -> bool:
    """Turn `path` over when it is larger than limit_bytes: copied to `.1`, emptied; true when it was. Raises OSError."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return False
    if size <= limit_bytes:
        return False
    for number in range(backups - 1, 0, -1):
        old = _numbered(path, number)
        if old.exists():
            old.replace(_numbered(path, number + 1))
    with path.open("r+b") as source:
        if backups:
            source.seek(max(0, size - KEEP_TAIL))
            fresh = path.with_name(f".{path.name}.fresh")
            with fresh.open("wb") as copy:
                os.fchmod(copy.fileno(), 0o600)
                shutil.copyfileobj(source, copy)
            source.truncate(0)
            fresh.replace(_numbered(path, 1))
        else:
            source.truncate(0)
    for number in range(backups + 1, backups + 100):
        if not _numbered(path, number).exists():
            break
        _numbered(path, number).unlink()
    return True


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")

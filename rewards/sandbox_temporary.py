"""Temporary files of a scoring process: memory, since it can't write to any folder.

Neighbours: `sandbox_child` calls `keep_temporary_files_in_memory` when files are guarded. Invariants: what libraries spool through
`tempfile.TemporaryFile` or `SpooledTemporaryFile` works and counts against the memory limit; files with a name can't be had.
"""

from __future__ import annotations

import io
import tempfile
from typing import IO, Any


def keep_temporary_files_in_memory() -> None:
    """For the whole process; modules that have taken the names before keep the old ones."""
    tempfile.TemporaryFile = _temporary_file  # type: ignore[assignment]


def _temporary_file(
    mode: str = "w+b",
    *_: Any,
    encoding: str | None = None,
    newline: str | None = None,
    errors: str | None = None,
    **__: Any,
) -> IO[Any]:
    """As `tempfile.TemporaryFile`, without a descriptor; buffering, suffix, prefix and folder mean nothing here."""
    if "b" in mode:
        return io.BytesIO()
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors, newline=newline)

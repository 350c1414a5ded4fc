"""What a zip of user code may hold.

Neighbours: `uploads` asks before it keeps one. Invariants: nothing is unpacked to disk; every entry stays in its folder, whatever
unpacks it.
"""

from __future__ import annotations

import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

MAX_FILES = 10_000
UNPACKED = 20  # times the limit of the zip: code is text, and text packs to a fifth or so
BLOCK = 1 << 20


class BadZip(Exception):
    """Why it is not kept."""


def check_zip(path: Path, limit_bytes: int) -> int:
    """Number of files. Raises BadZip naming the entry."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _check(archive, limit_bytes * UNPACKED)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        UnicodeDecodeError,
        ValueError,
        OverflowError,
    ) as error:
        raise BadZip(f"that is no zip file that can be read: {error}") from error


def _check(archive: zipfile.ZipFile, room: int) -> int:
    entries = archive.infolist()
    if len(entries) > MAX_FILES:
        raise BadZip(f"it holds {len(entries)} entries, the limit is {MAX_FILES}")
    seen: set[str] = set()
    for entry in entries:
        name = entry.orig_filename
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or "\x00" in name or ":" in name or not path.parts:
            raise BadZip(f"the entry {name[:100]!r} leads out of its folder")
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise BadZip(f"the entry {name[:100]!r} is a link or a device; only plain files are taken")
        if entry.flag_bits & 0x1:
            raise BadZip(f"the entry {name[:100]!r} is encrypted")
        if str(path) in seen:
            raise BadZip(f"the entry {name[:100]!r} is there twice")
        seen.add(str(path))
        room -= _unpacked(archive, entry, room)
    files = sum(not entry.is_dir() for entry in entries)
    if not files:
        raise BadZip("it holds no file")
    return files


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, room: int) -> int:
    """Its real size, which the header need not tell; the checksum is compared on the way."""
    size = 0
    with archive.open(entry) as file:
        while part := file.read(BLOCK):
            size += len(part)
            if size > room:
                raise BadZip("it unpacks to more than code has; leave data out of it")
    return size

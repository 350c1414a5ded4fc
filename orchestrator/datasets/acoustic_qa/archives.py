"""Reads the two container formats that hold recordings inside packages: Qt resource files and OpenTTD sample sets.

Neighbours: `bank.Library` asks for entries by name. Formats: doc.qt.io (rcc, versions 1 to 3), OpenTTD baseset `.cat`.
Invariants: pure functions of the file's bytes; a damaged file is an ArchiveError naming the file.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator.datasets.schema import DataError

_COMPRESSED, _DIRECTORY, _ZSTD = 1, 2, 4


class ArchiveError(DataError):
    """A container cannot be read; the message names the file."""


def read_rcc(path: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Entries of a Qt resource file whose inner path is wanted."""
    blob = path.read_bytes()
    try:
        return dict(_rcc_entries(blob, wanted))
    except (struct.error, zlib.error, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ArchiveError(f"{path} is not a Qt resource file that can be read: {error}") from error


def _rcc_entries(blob: bytes, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    if blob[:4] != b"qres":
        raise ValueError("it does not begin with 'qres'")
    version, tree, data, names = struct.unpack_from(">4I", blob, 4)
    node_bytes = 14 if version == 1 else 22

    def name_of(node: int) -> str:
        at = names + struct.unpack_from(">I", blob, node)[0]
        length = struct.unpack_from(">H", blob, at)[0]
        return blob[at + 6 : at + 6 + 2 * length].decode("utf-16-be")

    def walk(index: int, prefix: str) -> Iterator[tuple[str, bytes]]:
        node = tree + index * node_bytes
        flags = struct.unpack_from(">H", blob, node + 4)[0]
        if flags & _DIRECTORY:
            count, first = struct.unpack_from(">II", blob, node + 6)
            for child in range(first, first + count):
                name = name_of(tree + child * node_bytes)
                yield from walk(child, f"{prefix}/{name}" if prefix else name)
        elif wanted(prefix):
            at = data + struct.unpack_from(">I", blob, node + 10)[0]
            size = struct.unpack_from(">I", blob, at)[0]
            body = blob[at + 4 : at + 4 + size]
            if flags & _ZSTD:
                raise ValueError(f"entry {prefix} is compressed with zstd")
            yield prefix, zlib.decompress(body[4:]) if flags & _COMPRESSED else body

    yield from walk(0, "")


def read_cat(path: Path) -> dict[str, bytes]:
    """WAV entries of an OpenTTD sample set by their quoted title (`"Cow". By ...` gives `Cow`)."""
    blob = path.read_bytes()
    entries: dict[str, bytes] = {}
    try:
        count = (struct.unpack_from("<I", blob)[0] & 0x7FFFFFFF) // 8
        for index in range(count):
            offset, size = struct.unpack_from("<II", blob, 8 * index)
            offset &= 0x7FFFFFFF
            title_bytes = blob[offset]
            title = blob[offset + 1 : offset + 1 + title_bytes].rstrip(b"\0").decode("utf-8")
            start = offset + 1 + title_bytes
            name = title.split('"')[1] if title.count('"') >= 2 else title
            entries.setdefault(name, blob[start : start + size])
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ArchiveError(f"{path} is not an OpenTTD sample set that can be read: {error}") from error
    return entries

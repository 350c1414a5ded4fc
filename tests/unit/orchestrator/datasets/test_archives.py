"""Containers inside packages: entries come out whole by name; damaged files are named."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest

from orchestrator.datasets.acoustic_qa.archives import ArchiveError, read_cat, read_rcc


def rcc_name(text: str) -> bytes:
    return struct.pack(">HI", len(text), 0) + text.encode("utf-16-be")


def make_rcc(path: Path, plain: bytes, packed: bytes) -> Path:
    """Version 1: root / sounds / {a.ogg plain, b.wav compressed}."""
    names, offsets = b"", {}
    for text in ("sounds", "a.ogg", "b.wav"):
        offsets[text] = len(names)
        names += rcc_name(text)
    squeezed = struct.pack(">I", len(packed)) + zlib.compress(packed)
    data = struct.pack(">I", len(plain)) + plain
    second = len(data)
    data += struct.pack(">I", len(squeezed)) + squeezed
    tree = struct.pack(">IHII", 0, 2, 1, 1)
    tree += struct.pack(">IHII", offsets["sounds"], 2, 2, 2)
    tree += struct.pack(">IHHHI", offsets["a.ogg"], 0, 0, 0, 0)
    tree += struct.pack(">IHHHI", offsets["b.wav"], 1, 0, 0, second)
    head = 20
    header = b"qres" + struct.pack(">4I", 1, head, head + len(tree), head + len(tree) + len(data))
    path.write_bytes(header + tree + data + names)
    return path


def make_cat(path: Path, entries: dict[str, bytes]) -> Path:
    bodies, at = b"", 8 * len(entries)
    index = b""
    for title, sound in entries.items():
        named = title.encode() + b"\0"
        index += struct.pack("<II", at, len(sound))
        body = bytes([len(named)]) + named + sound
        bodies += body
        at += len(body)
    path.write_bytes(index + bodies)
    return path


def test_resource_files_give_plain_and_compressed_entries(tmp_path: Path) -> None:
    path = make_rcc(tmp_path / "x.rcc", b"plain bytes", b"packed " * 99)
    assert read_rcc(path, lambda _: True) == {"sounds/a.ogg": b"plain bytes", "sounds/b.wav": b"packed " * 99}


def test_only_wanted_resource_entries_are_read(tmp_path: Path) -> None:
    path = make_rcc(tmp_path / "x.rcc", b"plain", b"packed")
    assert list(read_rcc(path, lambda name: name.endswith(".wav"))) == ["sounds/b.wav"]


def test_sample_sets_are_read_by_quoted_title(tmp_path: Path) -> None:
    path = make_cat(tmp_path / "x.cat", {'"Cow". By someone.': b"moo", '"Horse".': b"neigh", '"Cow" again': b"late"})
    assert read_cat(path) == {"Cow": b"moo", "Horse": b"neigh"}


@pytest.mark.parametrize("content", [b"", b"qres", b"qres" + b"\xff" * 40, b"something else"])
def test_a_damaged_resource_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.rcc"
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match=r"broken\.rcc"):
        read_rcc(path, lambda _: True)


def test_a_damaged_sample_set_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.cat"
    path.write_bytes(struct.pack("<II", 8, 100))
    with pytest.raises(ArchiveError, match=r"broken\.cat"):
        read_cat(path)

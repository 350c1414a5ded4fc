"""Finds and decodes sounds inside fetched packages, whatever container they lie in.

Neighbours: `sources` fetched the packages, `archives` opens containers, `cuts` asks by the names of `recipe`.
Invariants: read only; what comes back is mono float32 at 16 kHz; a sound that is not there, or not alone, is a LibraryError.
"""

from __future__ import annotations

import fnmatch
import io
import re
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import resample_poly

from orchestrator.datasets.acoustic_qa.archives import read_cat, read_rcc
from orchestrator.datasets.acoustic_qa.sources import Source
from orchestrator.datasets.schema import DataError

RATE = 16_000


class LibraryError(DataError):
    """A package does not hold a sound that the recipe names, or holds it broken."""


class Library:
    """Sounds inside fetched packages, by "package:locator": a title in a sample set, or the end of one file's path."""

    def __init__(self, sources: dict[str, Source]) -> None:
        self._sources = sources
        self._entries: dict[str, dict[str, bytes | Path]] = {}

    def has(self, package: str) -> bool:
        return package in self._sources

    def find(self, place: str) -> list[str]:
        """Names in "package:glob", sorted; [] if the package is missing."""
        package, pattern = place.split(":", 1)
        return sorted(n for n in self._index(package) if fnmatch.fnmatchcase(n, pattern)) if self.has(package) else []

    def paths(self, package: str, pattern: str) -> list[Path]:
        """Files of a package by the shape of their path, sorted; [] if the package is missing."""
        index = self._index(package) if self.has(package) else {}
        return [p for n, p in sorted(index.items()) if isinstance(p, Path) and fnmatch.fnmatchcase(n, pattern)]

    def read(self, place: str, max_s: float) -> np.ndarray:
        """float32 [L] mono at 16 kHz. Raises LibraryError when there is no such sound, or more than one."""
        package, locator = place.split(":", 1)
        index = self._index(package)
        names = [locator] if locator in index else [n for n in index if n.endswith(f"/{locator}")]
        if len(names) != 1:
            raise LibraryError(f"{package} has {len(names)} sounds named {locator!r}; the package has changed")
        entry = index[names[0]]
        try:
            packed = without_id3(entry if isinstance(entry, bytes) else entry.read_bytes())
            samples, rate = soundfile.read(io.BytesIO(packed), dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, OSError) as error:
            raise LibraryError(f"{place} cannot be decoded: {error}") from error
        return to_rate(samples.mean(axis=1)[: int(max_s * rate)], rate)

    def _index(self, package: str) -> dict[str, bytes | Path]:
        if package not in self._entries:
            root = self._sources[package].path
            entries: dict[str, bytes | Path] = {}
            for path in sorted(p for p in root.rglob("*") if p.is_file()):
                if path.suffix == ".rcc":
                    entries |= read_rcc(path, lambda name: name.endswith((".ogg", ".wav")))
                elif path.suffix == ".cat":
                    entries |= read_cat(path)
                else:
                    entries[f"/{path.relative_to(root).as_posix()}"] = path
            self._entries[package] = entries
        return self._entries[package]


def without_id3(packed: bytes) -> bytes:
    """An mp3 from its first frame on (the decoder complains on stderr about odd ID3v2 tags); other bytes as they are."""
    if packed[:3] != b"ID3":
        return packed
    tag_bytes = 10 + sum(
        (seven_bits & 0x7F) << shift for seven_bits, shift in zip(packed[6:10], (21, 14, 7, 0), strict=True)
    )
    frame = re.search(rb"\xff[\xe2-\xff]", packed[tag_bytes:])
    return packed[tag_bytes + frame.start() :] if frame else packed


def to_rate(samples_L: np.ndarray, rate: int) -> np.ndarray:
    if rate == RATE:
        return samples_L.astype(np.float32)
    common = int(np.gcd(rate, RATE))
    return resample_poly(samples_L, RATE // common, rate // common).astype(np.float32)

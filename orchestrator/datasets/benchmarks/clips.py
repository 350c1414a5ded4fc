"""The recordings of a benchmark as files with digest and length.

Neighbours: `registry` asks; `rollout.load_audio` decodes. Invariants: embedded recordings are written once, under the hash of their bytes,
whole or not at all; a recording that can't be decoded is a fault of its record.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from orchestrator.datasets.benchmarks.format import Sound
from rollout import AudioError, AudioRef, load_audio
from rollout.audio.decode import SAMPLE_RATE, sha256_of_file

# First bytes of the formats that libsndfile reads, and what to call the file.
SIGNATURES = (
    (b"RIFF", ".wav"),
    (b"fLaC", ".flac"),
    (b"OggS", ".ogg"),
    (b"ID3", ".mp3"),
    (b"\xff\xfb", ".mp3"),
    (b"\xff\xf3", ".mp3"),
    (b"\xff\xf2", ".mp3"),
)


def place(sound: Sound, roots: Sequence[Path], cache: Path) -> Path:
    """The file of a recording: found under one of the roots, or written into `cache`. Raises AudioError."""
    if sound.body:
        return _stored(sound.body, cache)
    given = Path(sound.path)
    candidates = [given] if given.is_absolute() else [root / given for root in roots]
    for candidate in candidates:
        if candidate.is_file():
            return candidate.absolute()
    looked = ", ".join(str(candidate) for candidate in dict.fromkeys(candidates))
    raise AudioError(
        f"recording {sound.path} is not there (looked for {looked}); unpack the benchmark's audio beside its file"
    )


def examined(path: Path) -> AudioRef:
    """Digest and decoded length. Raises AudioError."""
    return AudioRef(str(path), sha256_of_file(path), len(load_audio(path)) / SAMPLE_RATE)


def _stored(body: bytes, cache: Path) -> Path:
    suffix = next((name for first, name in SIGNATURES if body.startswith(first)), None)
    if suffix is None:
        raise AudioError(f"an embedded recording starts with {body[:4]!r}, which is no wav, flac, ogg or mp3")
    path = cache / f"{hashlib.sha256(body).hexdigest()}{suffix}"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        part.write_bytes(body)
        os.replace(part, path)
    return path

"""Encoder features on disk, computed once a clip and encoder.

Neighbours: the controller fills the cache (`ensure`, `warm`), engine and trainer read it (`get`).
Invariants: key = hash of (clip bytes, chunk, encoder fingerprint), so a key's array never changes; files appear whole, by
rename; each file carries a digest of its array, a damaged one is recomputed (`ensure`) or refused (`get`), never used.
"""

from __future__ import annotations

import io
import logging
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from blake3 import blake3

from rollout.audio.chunk import chunk_count, chunk_wave
from rollout.audio.decode import load_audio
from rollout.audio.frozen import FrozenEncoder
from rollout.audio.refs import FeatureRef
from rollout.messages import AudioRef

log = logging.getLogger(__name__)

DIGEST_BYTES = 32


class FeatureError(RuntimeError):
    """Features that are needed are absent or damaged."""


class FeatureCache:
    """A folder of `.npy` files (a 32-byte blake3 digest behind the array, which numpy ignores).

    encoder: needed to compute what is missing; a reader of known keys leaves it out.
    """

    def __init__(self, directory: str | Path, encoder: FrozenEncoder | None = None) -> None:
        self.directory = Path(directory)
        self.encoder = encoder

    @classmethod
    def for_model(cls, directory: str | Path, model_dir: str | Path, device: str = "cpu") -> FeatureCache:
        """Cache that computes with the encoder of a model folder."""
        return cls(directory, FrozenEncoder.from_pretrained(model_dir, device))

    def get(self, key: str) -> np.ndarray:
        """Features [T25, D] float32. Raises FeatureError when they are absent or damaged."""
        path = self._path(key)
        try:
            return _read(path)
        except FileNotFoundError as error:
            raise FeatureError(
                f"features {key} are not in {self.directory}; run FeatureCache.ensure on the clip with this directory first"
            ) from error
        except ValueError as error:
            raise FeatureError(
                f"feature file {path} is damaged ({error}); run again, it is recomputed from its clip"
            ) from error

    def ensure(self, audio: Sequence[AudioRef]) -> list[FeatureRef]:
        """Keys and lengths of every chunk of these recordings, in order; computes and stores what is missing or damaged.

        Raises AudioError for a recording that cannot be used, FeatureError when something is missing and no encoder is there.
        """
        return [ref for recording in audio for ref in self._ensure_one(recording)]

    def warm(
        self, audio: Iterable[AudioRef], on_done: Callable[[int], object] | None = None, threads: int = 1
    ) -> dict[str, list[FeatureRef]]:
        """`ensure` for many recordings, each once; by sha256. on_done: called with 1 after each (for a progress bar).

        `threads` above 1 pays when torch itself is held to one thread (OMP_NUM_THREADS=1).
        """
        unique = {recording.sha256: recording for recording in audio}
        found: dict[str, list[FeatureRef]] = {}
        with ThreadPoolExecutor(max(1, threads)) as pool:
            try:
                for digest, refs in zip(unique, pool.map(self._ensure_one, unique.values()), strict=True):
                    found[digest] = refs
                    if on_done:
                        on_done(1)
            finally:
                pool.shutdown(cancel_futures=True)
        return found

    def _ensure_one(self, recording: AudioRef) -> list[FeatureRef]:
        encoder = self.encoder
        if encoder is None:
            raise FeatureError("this feature cache was opened without an encoder; open it with FeatureCache.for_model")
        stored = self._stored(recording, chunk_count(recording.seconds), encoder)
        if stored is not None:
            return stored
        chunks = chunk_wave(load_audio(recording.path))
        refs = []
        for index, wave in enumerate(chunks):
            key = _key(recording, index, len(chunks), encoder)
            features = np.ascontiguousarray(encoder.encode(wave).numpy(), dtype=np.float32)
            _write(self._path(key), features)
            refs.append(FeatureRef(key, len(features)))
        return refs

    def _stored(self, recording: AudioRef, chunks: int, encoder: FrozenEncoder) -> list[FeatureRef] | None:
        refs = []
        for index in range(chunks):
            key = _key(recording, index, chunks, encoder)
            path = self._path(key)
            try:
                refs.append(FeatureRef(key, len(_read(path))))
            except FileNotFoundError:
                return None
            except ValueError as error:
                log.warning("feature file %s is damaged (%s); computing it again from %s", path, error, recording.path)
                return None
        return refs

    def _path(self, key: str) -> Path:
        return self.directory / key[:2] / f"{key}.npy"


def _key(recording: AudioRef, index: int, chunks: int, encoder: FrozenEncoder) -> str:
    """The number of chunks is part of the key: a wrong `seconds` then misses the cache instead of losing a chunk."""
    return blake3(f"{recording.sha256}\0{index}/{chunks}\0{encoder.fingerprint}".encode()).hexdigest()


def _write(path: Path, features: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, features, allow_pickle=False)
    body = buffer.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    part.write_bytes(body + blake3(body).digest())
    os.replace(part, path)


def _read(path: Path) -> np.ndarray:
    """Raises FileNotFoundError, or ValueError when the digest does not match the bytes before it."""
    data = path.read_bytes()
    body, digest = data[:-DIGEST_BYTES], data[-DIGEST_BYTES:]
    if blake3(body).digest() != digest:
        raise ValueError(f"digest mismatch over {len(body)} bytes")
    return np.load(io.BytesIO(body), allow_pickle=False)

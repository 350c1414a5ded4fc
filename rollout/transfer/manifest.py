"""What a bucket of weights holds, in plain words that travel ahead of its bytes.

Neighbours: `actor.publishing` writes these while it packs, `reception` checks what arrives against them.
Invariants: a checksum depends on names, dtypes, shapes and bytes only, never on buckets, order or where a tensor lies; it is the
same whether all tensors were sent or only those that changed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import xxhash


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a bucket. name: in the checkpoint; dtype: torch's name without `torch.`; offset: bytes from the bucket's start;
    size: bytes; digest: hex, of its bytes (see `digest`)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int
    digest: str

    def line(self) -> bytes:
        """What the checksum of a set of tensors is taken over."""
        return f"{self.name}\0{self.dtype}\0{self.shape}\0{self.digest}\n".encode()


@dataclass(frozen=True, slots=True)
class Bucket:
    """A run of tensors that travels as one. start: bytes from the start of whatever holds the bucket; size: bytes."""

    start: int
    size: int
    tensors: tuple[TensorEntry, ...]

    @property
    def checksum(self) -> str:
        return whole_checksum(self.tensors)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self) | {"checksum": self.checksum})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Bucket:
        """Raises ValueError when the entries are not those its checksum was taken over, TypeError or KeyError for missing fields."""
        entries = tuple(TensorEntry(**(entry | {"shape": tuple(entry["shape"])})) for entry in data["tensors"])
        bucket = cls(int(data["start"]), int(data["size"]), entries)
        if bucket.checksum != data["checksum"]:
            raise ValueError(f"bucket at byte {bucket.start} lists other tensors than its checksum was taken over")
        return bucket


@dataclass(frozen=True, slots=True)
class WeightBucket:
    """A bucket with its bytes. data: bytes [size], or whatever stands for them where they cannot travel along (a reference into Ray's
    object store)."""

    manifest: Bucket
    data: Any


def whole_checksum(entries: Iterable[TensorEntry]) -> str:
    """Hex, 128 bit, over name, dtype, shape and digest of every tensor, sorted by name."""
    whole = xxhash.xxh3_128()
    for entry in sorted(entries, key=lambda entry: entry.name):
        whole.update(entry.line())
    return whole.hexdigest()

"""Takes weights bucket by bucket, checks them, hands them to whoever loads, and says in the end what was received.

Neighbours: `rollout.model.vllm_plugin.weights` loads with this inside vLLM's workers; `tail` and `rollout.engine` bring the buckets.
Invariants: no byte is loaded before its digest was found right; a tensor of an unknown name or another shape is never loaded; what the
engine holds already is skipped only where it shares a layer with nothing that is loaded; after a refusal nothing more is loaded, and
`touched` tells whether something was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rollout.errors import WeightsRefused
from rollout.transfer.companions import layer_of
from rollout.transfer.digest import matches
from rollout.transfer.manifest import Bucket, TensorEntry, whole_checksum
from rollout.transfer.segment import SegmentError
from rollout.transfer.tail import SegmentView, buckets_of

Loader = Callable[[Sequence[tuple[str, torch.Tensor]]], None]
MANY = 3  # names in a message


@dataclass(frozen=True, slots=True)
class Receipt:
    """checksum: of what was received and held; refusal: why the weights are not those announced, "" when they are; touched: whether
    a weight was changed; loaded_bytes: what was loaded; seconds: in the receiving process."""

    checksum: str
    refusal: str
    touched: bool
    loaded_bytes: int
    seconds: float


class Reception:
    """One update as it comes in.

    expected: shape by name of everything a whole update holds; optional: names that may come or not, and are never loaded; held: digest
    by name of what is loaded now (empty: unknown, everything is taken); load: gets (name, tensor) of verified tensors, on the device they
    came to; their memory is not used again.
    """

    def __init__(
        self,
        expected: Mapping[str, tuple[int, ...]],
        load: Loader,
        *,
        held: Mapping[str, str] | None = None,
        optional: Iterable[str] = (),
    ) -> None:
        self._expected = expected
        self._optional = frozenset(optional)
        self._load = load
        self._held = dict(held or {})
        self._entries: dict[str, TensorEntry] = {}
        self._skipped: dict[str, torch.Tensor] = {}  # bytes of what was not loaded, should its layer still want them
        self._layers: set[str] = set()  # with a tensor loaded
        self._loaded: set[str] = set()
        self._began = time.perf_counter()
        self.touched = False
        self.loaded_bytes = 0

    @property
    def digests(self) -> dict[str, str]:
        """Digest by name of what came and was skipped."""
        return {name: entry.digest for name, entry in self._entries.items()}

    def holds(self, entry: TensorEntry) -> bool:
        return self._held.get(entry.name) == entry.digest

    def announce(self, buckets: Iterable[Bucket], checksum: str) -> None:
        """All that an update holds, ahead of its bytes: what does not fit is then refused with nothing loaded. Raises WeightsRefused."""
        for bucket in buckets:
            for entry in bucket.tensors:
                self._announce(entry)
        self._complete(checksum)

    def take(self, bucket: Bucket, bytes_N: torch.Tensor) -> None:
        """Verifies and loads a bucket, a uint8 tensor [N] on any device. Raises WeightsRefused."""
        ready = []
        if bytes_N.numel() != bucket.size:
            raise WeightsRefused(f"a bucket of {bucket.size} bytes arrived with {bytes_N.numel()}")
        for entry in bucket.tensors:
            self._announce(entry)
            part = bytes_N[entry.offset : entry.offset + entry.size]
            if self.holds(entry):
                self._skipped[entry.name] = part
            elif entry.name not in self._optional:
                ready.append(self._verified(entry, part))
        self._give(ready)

    def finish(self, checksum: str) -> None:
        """Loads what layers were left with a part of, and compares with what the sender says it sent. Raises WeightsRefused."""
        wanting = [self._entries[name] for name in self._skipped if layer_of(name) in self._layers]
        self._give(
            [self._verified(entry, self._skipped[entry.name]) for entry in wanting if entry.name not in self._optional]
        )
        came = self._loaded | self._skipped.keys() | self._optional
        if lacking := [e.name for e in self._entries.values() if e.name not in came and not self.holds(e)]:
            raise WeightsRefused(f"a bucket did not come; {_some(sorted(lacking), 'announced and missing')}")
        self._complete(checksum)

    def _complete(self, checksum: str) -> None:
        found = self.checksum
        if missing := sorted(self._expected.keys() - self._entries.keys()):
            raise WeightsRefused(f"weights do not fit the engine's model; {_some(missing, 'missing')}")
        if found != checksum:
            raise WeightsRefused(f"checksum of the weights is {found}, announced was {checksum}")

    @property
    def checksum(self) -> str:
        return whole_checksum(self._entries.values())

    def receipt(self, refusal: str = "") -> Receipt:
        return Receipt(self.checksum, refusal, self.touched, self.loaded_bytes, time.perf_counter() - self._began)

    def _announce(self, entry: TensorEntry) -> None:
        if entry.name not in self._expected and entry.name not in self._optional:
            raise WeightsRefused(f"weights do not fit the engine's model; 1 unknown: {entry.name}")
        if entry.name in self._expected and self._expected[entry.name] != entry.shape:
            raise WeightsRefused(
                f"weights do not fit the engine's model; 1 of another shape: {entry.name} ({entry.shape} instead of "
                f"{self._expected[entry.name]})"
            )
        self._entries[entry.name] = entry

    def _verified(self, entry: TensorEntry, part: torch.Tensor) -> tuple[str, torch.Tensor]:
        dtype = getattr(torch, entry.dtype, None)
        if not isinstance(dtype, torch.dtype) or part.numel() != entry.size:
            raise WeightsRefused(
                f"{entry.name} is announced as {entry.dtype} in {entry.size} bytes, {part.numel()} bytes came"
            )
        if not matches(entry.digest, part):
            raise WeightsRefused(
                f"{entry.name} was damaged on its way: checksum of its {entry.size} bytes is not the announced one"
            )
        return entry.name, part.view(dtype).reshape(entry.shape)

    def _give(self, ready: Sequence[tuple[str, torch.Tensor]]) -> None:
        if not ready:
            return
        self.touched = True
        self._load(ready)
        self._layers |= {layer_of(name) for name, _ in ready}
        self._loaded |= {name for name, _ in ready}
        self.loaded_bytes += sum(tensor.numel() * tensor.element_size() for _, tensor in ready)


def receive_segment(reception: Reception, view: SegmentView, journal: Path, number: int, limit_s: float) -> None:
    """Takes all of a publish from shared memory, while it is written. Raises WeightsRefused."""
    try:
        for ready in buckets_of(journal, number, limit_s):
            if isinstance(ready, str):
                reception.finish(ready)
            else:
                data, bucket = ready
                reception.take(bucket, torch.from_numpy(view.bytes_of(data, bucket)))
    except SegmentError as error:
        raise WeightsRefused(str(error)) from error


def _some(names: Sequence[str], kind: str) -> str:
    return f"{len(names)} {kind}: {', '.join(names[:MANY])}{', ...' if len(names) > MANY else ''}"

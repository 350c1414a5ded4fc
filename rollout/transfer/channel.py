"""Weights from a trainer's devices straight into engines: where both ends meet, and what they say to each other.

Control goes through a small key-value store that trainer rank 0 serves: which bucket is next, that it was taken, the end, a failure.
Bytes go by a broadcast from rank 0 to every worker of every engine (NCCL between GPUs, gloo between CPUs), or, where a trainer rank and
an engine's worker share a device, by lending: the worker maps the trainer's staging buffer (CUDA IPC; shared memory between CPUs).
Neighbours: `actor.publishing.live` sends, the engine's worker receives; torch.distributed does the work, in groups of its own beside
those that trainer and engine are in.
Invariants: every wait has the limit given; what fails anywhere is a ChannelError with its reason at the other end; a lent buffer is
copied before it is given back.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import pickle
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import torch
import torch.distributed as dist

from rollout.transfer.manifest import Bucket

SENDER = 0  # rank of the trainer in a broadcast


class ChannelError(RuntimeError):
    """The other end is gone, silent or failed; says which."""


class Way(StrEnum):
    BROADCAST = "broadcast"
    LEND = "lend"


class Channel:
    """One end. address: host:port of the store, which the first `serve`s; rank: 0 for the trainer's rank 0, engines' workers from 1;
    size: of all of them; limit_s: of every wait."""

    def __init__(self, store: Any, rank: int, size: int, device: torch.device, limit_s: float) -> None:
        self._store = store
        self._rank, self._size = rank, size
        self.device = device
        self._limit = datetime.timedelta(seconds=limit_s)
        self._group: Any = None
        self._lent: tuple[str, torch.Tensor] | None = None  # the buffer that is lent or borrowed, by its handle
        self._said: list[list[str]] = [[], []]  # keys of the last publish, of this one

    @classmethod
    def serve(cls, host: str, size: int, device: torch.device, limit_s: float) -> tuple[Channel, str]:
        """The trainer's rank 0, and the address where the others join."""
        limit = datetime.timedelta(seconds=limit_s)
        store = dist.TCPStore("0.0.0.0", 0, None, True, limit, wait_for_workers=False)
        return cls(store, SENDER, size, device, limit_s), f"{host}:{store.port}"

    @classmethod
    def join(cls, address: str, rank: int, size: int, device: torch.device, limit_s: float) -> Channel:
        """Raises ChannelError when nobody serves there."""
        host, _, port = address.rpartition(":")
        limit = datetime.timedelta(seconds=limit_s)
        with _named(f"nobody serves weights at {address}"):
            return cls(dist.TCPStore(host, int(port), None, False, limit), rank, size, device, limit_s)

    def begin(self) -> None:
        """A publish begins: the sender takes back what it said in the one before the last, which all have read."""
        for key in self._said[0]:
            self._store.delete_key(key)
        self._said = [self._said[1], []]

    def broadcast(self, number: int, position: int, bucket: Bucket, bytes_N: torch.Tensor) -> None:
        """Sends bucket `position` of publish `number`. Raises ChannelError."""
        self._say(f"{number}/{position}", {"bucket": json.loads(bucket.to_json())})
        self._pass(bytes_N)

    def lend(self, number: int, position: int, bucket: Bucket, bytes_N: torch.Tensor, buffer: torch.Tensor) -> None:
        """Lets the workers on this device copy a bucket out of `buffer`, waits until they have. Raises ChannelError."""
        if self._lent is None or self._lent[1] is not buffer:
            self._lent = (_handle(buffer), buffer)
        if bytes_N.is_cuda:
            torch.cuda.synchronize(bytes_N.device)
        key = f"{number}/{position}/{here(self.device)}"
        self._say(key, {"bucket": json.loads(bucket.to_json()), "handle": self._lent[0]})
        self._hear(f"{key}/free")

    def end(self, number: int, position: int, way: Way, checksum: str) -> None:
        """After the last bucket."""
        self._say(self._key(number, position, way), {"end": checksum})

    def fail(self, number: int, position: int, way: Way, why: str) -> None:
        """In place of bucket `position`."""
        self._say(self._key(number, position, way), {"failed": why})

    def incoming(self, number: int, way: Way) -> Iterator[tuple[Bucket, torch.Tensor] | str]:
        """(bucket, its bytes [N] on this device) in the order sent, then the checksum of the whole. Go through to the end, or the
        others wait. Raises ChannelError."""
        position = 0
        while True:
            key = self._key(number, position, way)
            said = json.loads(self._hear(key))
            if "failed" in said:
                raise ChannelError(f"the publisher gave up on publish {number}: {said['failed']}")
            if "end" in said:
                yield str(said["end"])
                return
            bucket = Bucket.from_dict(said["bucket"])
            if way is Way.BROADCAST:
                bytes_N = torch.empty(bucket.size, dtype=torch.uint8, device=self.device)
                self._pass(bytes_N)
            else:
                bytes_N = self._borrowed(said["handle"])[: bucket.size].clone()
                if bytes_N.is_cuda:
                    torch.cuda.synchronize(bytes_N.device)
                self._give_back(key)
            yield bucket, bytes_N
            position += 1

    def close(self) -> None:
        self._group = self._lent = self._store = None

    def _key(self, number: int, position: int, way: Way) -> str:
        return f"{number}/{position}" + (f"/{here(self.device)}" if way is Way.LEND else "")

    def _say(self, key: str, what: dict[str, Any]) -> None:
        self._said[1].append(key)
        with _named("the store of the weights' channel is gone"):
            self._store.set(key, json.dumps(what))

    def _hear(self, key: str) -> bytes:
        with _named(f"nothing was heard of {key} within {self._limit.total_seconds():g} s, or the other end is gone"):
            self._store.wait([key], self._limit)
            return bytes(self._store.get(key))

    def _pass(self, bytes_N: torch.Tensor) -> None:
        with _named("a broadcast of weights broke off"):
            if self._group is None:
                self._group = _group(self._store, self._rank, self._size, self.device, self._limit)
            options = dist.BroadcastOptions()
            options.rootRank, options.timeout = SENDER, self._limit
            self._group.broadcast([bytes_N], options).wait()
            if bytes_N.is_cuda:
                torch.cuda.synchronize(bytes_N.device)

    def _borrowed(self, handle: str) -> torch.Tensor:
        """The lender's buffer, mapped once for all buckets that lie in it."""
        if self._lent is None or self._lent[0] != handle:
            self._lent = (handle, _mapped(handle, self.device))
        return self._lent[1]

    def _give_back(self, key: str) -> None:
        borrowers = 1 if self.device.type == "cuda" else self._size - 1  # a GPU has one worker, a host all
        with _named("the store of the weights' channel is gone"):
            if self._store.add(f"{key}/taken", 1) == borrowers:
                self._store.set(f"{key}/free", "")


def here(device: torch.device) -> str:
    """A device by a name that all processes on it agree on."""
    return str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else "cpu"


def _group(store: Any, rank: int, size: int, device: torch.device, limit: datetime.timedelta) -> Any:
    if device.type != "cuda":
        return dist.ProcessGroupGloo(dist.PrefixStore("gloo", store), rank, size, limit)
    nccl: Any = getattr(dist, "ProcessGroupNCCL")  # noqa: B009 (torch for CPUs has none)
    options = nccl.Options()
    options._timeout = limit
    return nccl(dist.PrefixStore("nccl", store), rank, size, options)


def _handle(buffer: torch.Tensor) -> str:
    """What another process on this device needs to map a buffer."""
    if buffer.is_cuda:
        from torch.multiprocessing.reductions import reduce_tensor

        handle: Any = reduce_tensor(buffer)[1]
    else:
        handle = buffer.untyped_storage()._share_filename_cpu_()
    return base64.b64encode(pickle.dumps(handle)).decode()


def _mapped(handle: str, device: torch.device) -> torch.Tensor:
    arguments = pickle.loads(base64.b64decode(handle))
    if device.type == "cuda":
        from torch.multiprocessing.reductions import rebuild_cuda_tensor

        rebuild: Any = rebuild_cuda_tensor
        return rebuild(*arguments[:6], device.index, *arguments[7:])
    storage = torch.UntypedStorage._new_shared_filename_cpu(*arguments)
    return torch.empty(0, dtype=torch.uint8).set_(storage)


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    """torch.distributed raises RuntimeErrors of many kinds."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, ChannelError):
            raise
        raise ChannelError(f"{what}: {' '.join(str(error).split())[:300]}") from error

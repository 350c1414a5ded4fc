"""The registry of published rewards, in Redis: bundles by content hash, tags, what is retired.

Neighbours: `registry.resolve` looks versions up here, `lab` publishes what has passed its golden cases, `orchestrator.rewards_store`
says where Redis is. Invariants: a bundle is never changed or deleted; every write is one script, so nobody sees half of it;
publishing the same content again changes nothing but the tag; what is read is compared with its hash.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from rewards.bundle import HASH, MAX_BYTES, Bundle, decode_bundle
from rewards.bundle_files import materialise
from rewards.errors import RewardError

KEYS = "{mgrd:rewards}"  # one slot of a Redis cluster
TAG = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
HEX = re.compile(r"[0-9a-f]{12,64}")

# KEYS: bundles, records, order, retired, tags. ARGV: hash, bundle, record, tag field or "".
PUBLISH = """
if redis.call('HEXISTS', KEYS[4], ARGV[1]) == 1 then return 'retired' end
local fresh = redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2])
if fresh == 1 then
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
  redis.call('ZADD', KEYS[3], 0, ARGV[1])
end
if ARGV[4] ~= '' then redis.call('HSET', KEYS[5], ARGV[4], ARGV[1]) end
return fresh == 1 and 'new' or 'known'
"""
# As above; ARGV: hash, record of the retirement or "" to take it back.
RETIRE = """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 'unknown' end
if ARGV[2] == '' then redis.call('HDEL', KEYS[4], ARGV[1]) else redis.call('HSETNX', KEYS[4], ARGV[1], ARGV[2]) end
return 'done'
"""
# As above; ARGV: hash, tag field.
MOVE_TAG = """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 'unknown' end
if redis.call('HEXISTS', KEYS[4], ARGV[1]) == 1 then return 'retired' end
redis.call('HSET', KEYS[5], ARGV[2], ARGV[1])
return 'done'
"""


@dataclass(frozen=True, slots=True)
class Published:
    """A line of the registry. at, retired_at: seconds since 1970 (retired_at 0: in use); tags: without the name."""

    hash: str
    name: str
    kind: str
    at: float
    note: str
    tags: tuple[str, ...] = ()
    retired_at: float = 0.0
    retired_note: str = ""


class PublishedStore:
    """client: without decoding of responses; folder: where bundles are materialised. Every method raises RewardError when
    Redis does not answer."""

    def __init__(self, client: redis.Redis, folder: Path) -> None:
        self.client: Any = client  # its annotations leave open whether replies are bytes
        self.folder = folder
        self._keys = [f"{KEYS}:{part}" for part in ("bundles", "records", "order", "retired", "tags")]
        self._bundles, self._records, self._order, self._retired, self._tags = self._keys

    @classmethod
    def from_url(cls, url: str, folder: Path) -> PublishedStore:
        """Raises RewardError for a malformed URL."""
        try:
            return cls(redis.Redis.from_url(url, socket_timeout=10.0, socket_connect_timeout=5.0), folder)
        except ValueError as error:
            raise RewardError(
                f"the registry's Redis address {_without_password(url)!r} is malformed: {error}"
            ) from error

    def close(self) -> None:
        self.client.close()

    def publish(self, bundle: Bundle, *, tag: str = "", note: str = "", at: float | None = None) -> str:
        """Keeps the bundle and returns its hash; tag: is moved to it in the same moment.

        Raises RewardError for a bad tag, a bundle that is too large, or one that was retired. Golden cases are the caller's
        duty (`lab.publish`).
        """
        data = bundle.encode()
        if len(data) > MAX_BYTES * 2:
            raise RewardError(f"the bundle of {bundle.name!r} takes {len(data) >> 20} MB; keep large files elsewhere")
        field = _tag_field(bundle.name, tag) if tag else ""
        record = json.dumps(
            {"name": bundle.name, "kind": bundle.kind, "at": time.time() if at is None else at, "note": note}
        )
        done = self._script(PUBLISH, bundle.hash, data, record, field)
        if done == "retired":
            raise RewardError(
                f"{bundle.hash} ({bundle.name}) was retired: change the function, or take that back with "
                f"`mgrd rewards retire --undo {bundle.hash[:19]}`"
            )
        return bundle.hash

    def get(self, digest: str) -> Bundle:
        """Raises RewardError for an unknown hash or content that no longer has it."""
        with self._answering():
            data = self.client.hget(self._bundles, digest)
        if data is None:
            raise RewardError(f"no reward is published under {digest}; see `mgrd rewards list`")
        return decode_bundle(data, digest, f"the entry {digest} of the registry")

    def find(self, reference: str, *, name: str = "", retired: bool = False) -> str:
        """The hash behind a hash, its first 12 digits or more, a tag of `name`, or `name@tag`.

        retired: whether a retired one will do. Raises RewardError when there is none, more than one, or another name's.
        """
        digest = self._digest(reference, name)
        with self._answering():
            record, gone = self.client.hmget(self._records, digest)[0], self.client.hget(self._retired, digest)
        if record is None:
            raise RewardError(f"no reward is published under {reference}; see `mgrd rewards list`")
        held = json.loads(record)["name"]
        if name and held != name:
            raise RewardError(f"{reference} is a version of the reward {held!r}, not of {name!r}")
        if gone is not None and not retired:
            why = json.loads(gone)["note"]
            raise RewardError(
                f"{reference} ({held}) was retired{': ' + why if why else ''}; runs that were started with it may go on, a new "
                "run needs another version (see `mgrd rewards list`)"
            )
        return digest

    def list(self, *, retired: bool = False) -> tuple[Published, ...]:
        """By name, then oldest first. retired: with the retired ones."""
        with self._answering():
            pipeline = self.client.pipeline(transaction=True)
            pipeline.hgetall(self._records).hgetall(self._retired).hgetall(self._tags)
            records, gone, tags = pipeline.execute()
        lines = [
            _published(digest.decode(), json.loads(record), gone.get(digest), tags)
            for digest, record in records.items()
        ]
        return tuple(sorted((p for p in lines if retired or not p.retired_at), key=lambda p: (p.name, p.at, p.hash)))

    def show(self, reference: str, *, name: str = "") -> tuple[Published, Bundle]:
        """Line and content, of a retired one, too. Raises RewardError as `find` and `get`."""
        digest = self.find(reference, name=name, retired=True)
        return next(p for p in self.list(retired=True) if p.hash == digest), self.get(digest)

    def retire(self, digest: str, *, note: str = "", undo: bool = False) -> None:
        """New runs can't use it any more; what has pinned it can. Raises RewardError for an unknown hash."""
        record = "" if undo else json.dumps({"at": time.time(), "note": note})
        if self._script(RETIRE, digest, record) == "unknown":
            raise RewardError(f"no reward is published under {digest}; see `mgrd rewards list`")

    def tag(self, digest: str, tag: str, *, name: str) -> None:
        """Moves name@tag to this version. Raises RewardError for a bad tag, an unknown or a retired version."""
        field = _tag_field(name, tag)
        self.find(digest, name=name, retired=True)
        done = self._script(MOVE_TAG, digest, field)
        if done != "done":
            raise RewardError(f"{field} can't be moved to {digest}: that version is {done}")

    def materialise(self, bundle: Bundle) -> Path:
        """The bundle file of a folder that scoring processes can import from. Raises RewardError when it can't be written."""
        return materialise(bundle, self.folder)

    def _digest(self, reference: str, name: str) -> str:
        if HASH.fullmatch(reference):
            return reference
        prefix = reference.removeprefix("sha256:")
        if reference.startswith("sha256:") or HEX.fullmatch(reference):
            if not HEX.fullmatch(prefix):
                raise RewardError(f"{reference!r} is no version: give 12 hexadecimal digits of the hash or more")
            with self._answering():
                low = f"[sha256:{prefix}"
                matches = self.client.zrangebylex(self._order, low, low + "g", 0, 3)
            if len(matches) > 1:
                raise RewardError(f"{reference} is the beginning of several hashes; give more digits")
            return matches[0].decode() if matches else reference
        owner, _, tag = reference.rpartition("@")
        field = _tag_field(owner or name, tag)
        with self._answering():
            digest = self.client.hget(self._tags, field)
        if digest is None:
            known = sorted({p.name for p in self.list()})
            raise RewardError(f"there is no tag {field}; published: {', '.join(known) or 'nothing yet'}")
        return digest.decode()

    def _script(self, script: str, *arguments: Any) -> str:
        with self._answering():
            return self.client.eval(script, len(self._keys), *self._keys, *arguments).decode()

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except redis.RedisError as error:
            settings = self.client.connection_pool.connection_kwargs
            where = f"{settings.get('host', '?')}:{settings.get('port', '?')}"
            raise RewardError(f"the registry of rewards at {where} does not answer: {error}") from error


def _tag_field(name: str, tag: str) -> str:
    if not TAG.fullmatch(tag) or HEX.fullmatch(tag):
        raise RewardError(f"{tag!r} is no tag: letters, digits, _ . -, not starting with a digit, and not like a hash")
    if not name:
        raise RewardError(f"the tag {tag!r} belongs to a name: write NAME@{tag}")
    return f"{name}@{tag}"


def _published(digest: str, record: Mapping[str, Any], gone: bytes | None, tags: Mapping[bytes, bytes]) -> Published:
    mine = sorted(field.decode().rpartition("@")[2] for field, target in tags.items() if target.decode() == digest)
    end: dict[str, Any] = json.loads(gone) if gone else {"at": 0.0, "note": ""}
    return Published(
        digest, record["name"], record["kind"], record["at"], record["note"], tuple(mine), end["at"], end["note"]
    )


def _without_password(url: str) -> str:
    return re.sub(r"//[^@/]*@", "//***@", url)

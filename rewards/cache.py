"""Outcomes of reward functions by content, in Redis: the same function on the same response is not run twice.

Neighbours: `work` looks outcomes up before it makes jobs and keeps what comes back. Invariants: the key is the function's version
and everything a function sees of a sample; a hit is bit-equal to what was kept; only scores are kept, never a failure (what
caused it may have passed); without Redis, rewards are scored without a cache.
"""

from __future__ import annotations

import hashlib
import logging
import math
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import redis

from rewards.errors import RewardError
from rewards.registry import ResolvedTerm
from rewards.sandbox_wire import Outcome

PREFIX = b"mgrd:verdict:1:"  # the number belongs to the form of keys and values
POLICY = "cache"  # parameter of a function that is not deterministic: true keeps its scores all the same
TTL_S = 30 * 86_400.0
TIMEOUT_S = 2.0  # of one exchange; a slower answer costs more than most functions
PAUSE_S = 30.0  # without asking again, after Redis has failed
CHUNK = 1024  # keys in one exchange: the server is not held up for others
SCORE = struct.Struct("<d")
ID_END = b',"question":'  # a quote inside a JSON string is escaped, so this is the field and nothing else
log = logging.getLogger(__name__)


class Kept(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A score with more to it; a bare score is kept as its 8 bytes."""

    score: float
    parts: dict[str, float]
    notes: str


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Kept)


@dataclass(slots=True)
class CacheCounts:
    """Since the cache was made. failures: exchanges that Redis did not answer."""

    hits: int = 0
    misses: int = 0
    failures: int = 0


def may_be_kept(term: ResolvedTerm) -> bool:
    """Deterministic functions, and those whose parameter `cache` says so."""
    return term.deterministic or term.parameters.get(POLICY) is True


def term_prefix(term: ResolvedTerm) -> bytes:
    """What the keys of all its outcomes start with."""
    return PREFIX + hashlib.sha256(term.version.encode()).digest()


def sample_digest(line: bytes) -> bytes:
    """Of everything in an encoded sample but the trajectory's id."""
    return hashlib.sha256(line[line.index(ID_END) :]).digest()


class VerdictCache:
    """ttl_s: how long an outcome is kept (0: until Redis needs the room)."""

    def __init__(self, redis_url: str, *, ttl_s: float = TTL_S) -> None:
        """Does not connect yet. Raises RewardError for a malformed address."""
        try:
            self._client: Any = redis.Redis.from_url(
                redis_url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S
            )
        except ValueError as error:
            raise RewardError(f"the verdict cache's Redis address is malformed: {error}") from error
        if ttl_s < 0:
            raise RewardError(f"verdicts can't be kept for {ttl_s!r} s; give 0 or more")
        self.ttl_s = ttl_s
        self.counts = CacheCounts()
        self._asked_again_at = 0.0

    def close(self) -> None:
        self._client.close()

    def get_many(self, keys: Sequence[bytes]) -> list[Outcome | None]:
        """What is known, in order; all None while Redis does not answer."""
        found: list[Outcome | None] = []
        for start in range(0, len(keys), CHUNK):
            chunk = keys[start : start + CHUNK]
            values = self._exchange(partial(self._client.mget, chunk))
            found += [None] * len(chunk) if values is None else map(_outcome, values)
        missing = found.count(None)
        self.counts.misses += missing
        self.counts.hits += len(found) - missing
        return found

    def put_many(self, entries: Iterable[tuple[bytes, Outcome]]) -> None:
        """Keeps scores; outcomes without one are passed over."""
        packed = [(key, _value(outcome)) for key, outcome in entries if outcome.score is not None]
        life_ms = round(self.ttl_s * 1000) or None
        for start in range(0, len(packed), CHUNK):
            pipeline = self._client.pipeline(transaction=False)
            for key, value in packed[start : start + CHUNK]:
                pipeline.set(key, value, px=life_ms)
            self._exchange(pipeline.execute)

    def _exchange(self, call: Any) -> Any:
        """What Redis says; None when it says nothing, and for a while after that without asking."""
        if time.monotonic() < self._asked_again_at:
            return None
        try:
            answer = call()
        except redis.RedisError as error:
            self.counts.failures += 1
            if self._asked_again_at == 0.0:
                log.warning("the verdict cache does not answer; rewards are scored without it: %s", error)
            self._asked_again_at = time.monotonic() + PAUSE_S
            return None
        if self._asked_again_at:
            log.info("the verdict cache answers again")
            self._asked_again_at = 0.0
        return answer


def _value(outcome: Outcome) -> bytes:
    assert outcome.score is not None
    if outcome.parts or outcome.notes:
        return _encoder.encode(Kept(outcome.score, outcome.parts, outcome.notes))
    return SCORE.pack(outcome.score)


def _outcome(value: bytes | None) -> Outcome | None:
    """None for what is not there or not readable: it is scored and kept anew."""
    if value is None:
        return None
    try:
        kept = Kept(SCORE.unpack(value)[0], {}, "") if len(value) == SCORE.size else _decoder.decode(value)
    except msgspec.DecodeError:
        kept = None
    if kept is None or not math.isfinite(kept.score):
        log.warning("an entry of the verdict cache can't be read and is made anew")
        return None
    return Outcome(kept.score, parts=kept.parts, notes=kept.notes)

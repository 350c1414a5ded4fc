"""Every trajectory of a run on Redis streams, exactly once, with its verdict beside it.

Neighbours: `rollout.worker` appends, the controller reads rounds, stores verdicts and acknowledges what is in a checkpoint.
Invariants: an id is kept once, the first time, however often it is appended; every change is one atomic script, so that a
repeated call (after a lost connection, from two workers) changes nothing more; an acknowledged round never comes back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, Protocol, Self, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, BusyLoadingError, NoScriptError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from rollout.messages import Trajectory

RECONNECT_S = 60.0  # Redis may restart within this time without anybody noticing
SOCKET_TIMEOUT_S = 10.0  # one answer
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 1.0  # between attempts, doubling
NOTHING_ACKNOWLEDGED = -1
ROUNDS_A_SCRIPT = 100  # keeps every script short: Redis serves nobody else meanwhile
log = logging.getLogger(__name__)
Result = TypeVar("Result")

# KEYS: frontier, index (id -> round), rounds (set), stream of the round, ids of the round. ARGV: round, then id, body pairs.
# Returns how many were new.
APPEND = """
local frontier = tonumber(redis.call('GET', KEYS[1]) or '-1')
if tonumber(ARGV[1]) <= frontier then return 0 end
local new = 0
for i = 2, #ARGV, 2 do
  if redis.call('HSETNX', KEYS[2], ARGV[i], ARGV[1]) == 1 then
    redis.call('SADD', KEYS[5], ARGV[i])
    redis.call('XADD', KEYS[4], '*', 'id', ARGV[i], 'body', ARGV[i + 1])
    new = new + 1
  end
end
redis.call('SADD', KEYS[3], ARGV[1])
return new
"""

# KEYS: index, verdicts. ARGV: id, body pairs. Returns the first id that is not in the ledger (then nothing is stored), or ''.
PUT_VERDICTS = """
for i = 1, #ARGV, 2 do
  if redis.call('HEXISTS', KEYS[1], ARGV[i]) == 0 then return ARGV[i] end
end
for i = 1, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
return ''
"""

# KEYS: index, verdicts, rounds, then stream and ids of each round. ARGV: the rounds. Returns how many trajectories are gone.
DROP = """
local gone = 0
for i = 1, #ARGV do
  local stream, ids = KEYS[2 + 2 * i], KEYS[3 + 2 * i]
  for _, id in ipairs(redis.call('SMEMBERS', ids)) do
    redis.call('HDEL', KEYS[1], id)
    redis.call('HDEL', KEYS[2], id)
    gone = gone + 1
  end
  redis.call('UNLINK', stream, ids)
  redis.call('SREM', KEYS[3], ARGV[i])
end
return gone
"""

# KEYS: frontier. ARGV: round. Moves the frontier forward, never back.
ADVANCE = """
local frontier = tonumber(redis.call('GET', KEYS[1]) or '-1')
if tonumber(ARGV[1]) > frontier then redis.call('SET', KEYS[1], ARGV[1]) end
return 0
"""


class LedgerError(Exception):
    """The ledger can't do what was asked: Redis is away for too long, or the request makes no sense."""


class VerdictLike(Protocol):
    """What the ledger needs of a verdict: there and back as JSON. (Verdicts belong to `rewards`, which imports from here.)"""

    def to_json(self) -> str: ...

    @classmethod
    def from_json(cls, line: str | bytes) -> Self: ...


V = TypeVar("V", bound=VerdictLike)


class Ledger(Generic[V]):
    """The trajectories of one run. round: number of the policy update they are for.

    verdict_type: needed to store and read verdicts, not to append. Thread-safe. Every method raises LedgerError when Redis
    does not answer within `reconnect_s`.
    """

    def __init__(
        self, redis_url: str, run_id: str, *, verdict_type: type[V] | None = None, reconnect_s: float = RECONNECT_S
    ) -> None:
        if not run_id or any(c in run_id for c in "{}"):
            raise LedgerError(f"a run id is a name without braces, not {run_id!r}")
        self.run_id = run_id
        self.verdict_type = verdict_type
        self.reconnect_s = reconnect_s
        try:
            self._redis: redis.Redis = redis.Redis.from_url(
                redis_url,
                socket_timeout=SOCKET_TIMEOUT_S,
                socket_connect_timeout=SOCKET_TIMEOUT_S,
                retry=Retry(NoBackoff(), 0),  # repeated here, under one limit
            )
        except ValueError as error:
            raise LedgerError(f"the ledger's Redis URL is malformed: {error}") from error
        options = self._redis.connection_pool.connection_kwargs
        self._place = options.get("path") or f"{options.get('host')}:{options.get('port')}"
        base = f"mgrd:{{{run_id}}}:ledger"  # braces keep a run's keys on one node of a cluster
        self._base = base
        self._frontier, self._index = f"{base}:frontier", f"{base}:index"
        self._verdicts, self._rounds = f"{base}:verdicts", f"{base}:rounds"
        self._append = self._redis.register_script(APPEND)
        self._put_verdicts = self._redis.register_script(PUT_VERDICTS)
        self._drop = self._redis.register_script(DROP)
        self._advance = self._redis.register_script(ADVANCE)

    def append(self, round: int, trajectory: Trajectory) -> bool:
        """True when the trajectory is new; False when its id is in the ledger already or its round is acknowledged."""
        return self.append_all(round, [trajectory]) == 1

    def append_all(self, round: int, trajectories: Sequence[Trajectory]) -> int:
        """Appends in order, all or nothing; returns how many were new."""
        if round < 0:
            raise LedgerError(f"a round is numbered from 0, got {round}")
        if not trajectories:
            return 0
        keys = [self._frontier, self._index, self._rounds, self._stream(round), self._ids(round)]
        arguments: list[Any] = [round]
        for trajectory in trajectories:
            arguments += [trajectory.id, trajectory.to_json()]
        return int(self._call("append", lambda: self._append(keys, arguments)))

    def put_verdict(self, trajectory_id: str, verdict: V) -> None:
        """Stores a verdict beside its trajectory, over an earlier one. Raises LedgerError for an unknown trajectory."""
        self.put_verdicts({trajectory_id: verdict})

    def put_verdicts(self, verdicts: Mapping[str, V]) -> None:
        """As `put_verdict`, for many at once, all or nothing."""
        if self.verdict_type is None:
            raise LedgerError("this ledger only appends; open it with Ledger(url, run_id, verdict_type=Verdict)")
        if not verdicts:
            return
        arguments = [text for key, verdict in verdicts.items() for text in (key, verdict.to_json())]
        unknown = self._call("put_verdicts", lambda: self._put_verdicts([self._index, self._verdicts], arguments))
        if unknown:
            raise LedgerError(
                f"a verdict for trajectory {_text(unknown)!r}, which is not in the ledger of run {self.run_id!r}; "
                "append it first (an acknowledged round is gone)"
            )

    def round(self, round: int) -> list[tuple[Trajectory, V | None]]:
        """The round's trajectories with their verdicts, by id; empty when the round is unknown or acknowledged."""
        if round <= self.frontier():
            return []
        entries = self._call("read a round", lambda: self._redis.xrange(self._stream(round)))
        trajectories = sorted((Trajectory.from_json(fields[b"body"]) for _, fields in entries), key=lambda t: t.id)
        if not trajectories:
            return []
        ids = [trajectory.id for trajectory in trajectories]
        bodies = self._call("read verdicts", lambda: self._redis.hmget(self._verdicts, ids))
        if self.verdict_type is None and any(body is not None for body in bodies):
            raise LedgerError("this round has verdicts; open the ledger with Ledger(url, run_id, verdict_type=Verdict)")
        verdicts = [
            None if body is None or self.verdict_type is None else self.verdict_type.from_json(body) for body in bodies
        ]
        return list(zip(trajectories, verdicts, strict=True))

    def acknowledge(self, through_round: int) -> None:
        """Marks all rounds up to this one as used by a named checkpoint and drops them. Repeating it does nothing."""
        self._call("acknowledge", lambda: self._advance([self._frontier], [through_round]))
        self._drop_rounds(number for number in self._known_rounds() if number <= through_round)

    def discard_after(self, round: int) -> int:
        """Drops every later round, for a resume that must not reuse them; returns how many trajectories that were."""
        return self._drop_rounds(number for number in self._known_rounds() if number > round)

    def rewind(self, round: int) -> int:
        """Forgets every later round, acknowledgements included, for policy updates that are to be done anew; returns how many
        trajectories that were. Repeating it does nothing."""
        if self.frontier() > round:
            self._call("rewind", lambda: self._redis.set(self._frontier, round))
        return self.discard_after(round)

    def frontier(self) -> int:
        """The last acknowledged round, NOTHING_ACKNOWLEDGED (-1) before the first."""
        value = self._call("read the frontier", lambda: self._redis.get(self._frontier))
        return NOTHING_ACKNOWLEDGED if value is None else int(value)

    def close(self) -> None:
        """Gives the connections back; the ledger stays usable and would open new ones."""
        self._redis.close()

    def _known_rounds(self) -> list[int]:
        return sorted(int(number) for number in self._call("list rounds", lambda: self._redis.smembers(self._rounds)))

    def _drop_rounds(self, rounds: Iterable[int]) -> int:
        numbers, gone = list(rounds), 0
        for start in range(0, len(numbers), ROUNDS_A_SCRIPT):
            some = numbers[start : start + ROUNDS_A_SCRIPT]
            keys = [self._index, self._verdicts, self._rounds]
            keys += [key for number in some for key in (self._stream(number), self._ids(number))]
            gone += int(self._call("drop rounds", lambda keys=keys, some=some: self._drop(keys, some)))  # type: ignore[misc]
        return gone

    def _stream(self, round: int) -> str:
        return f"{self._base}:{round}:stream"

    def _ids(self, round: int) -> str:
        return f"{self._base}:{round}:ids"

    def _call(self, what: str, command: Callable[[], Result]) -> Any:
        """Runs a command, again while Redis is away; safe because every command may run twice."""
        deadline = time.monotonic() + self.reconnect_s
        pause = FIRST_PAUSE_S
        while True:
            try:
                return command()
            except AuthenticationError as error:
                raise LedgerError(
                    f"Redis at {self._place} refuses the ledger: {error}; check the URL's password"
                ) from error
            except (RedisConnectionError, RedisTimeoutError, BusyLoadingError, NoScriptError) as error:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise LedgerError(
                        f"ledger of run {self.run_id!r}: could not {what}, Redis at {self._place} is away for "
                        f"{self.reconnect_s:.0f} s ({error}); start it again, then resume the run"
                    ) from error
                log.warning("ledger: Redis at %s is away (%s), trying again", self._place, error)
            except RedisError as error:
                raise LedgerError(
                    f"ledger of run {self.run_id!r}: could not {what} at {self._place}: {error}"
                ) from error
            time.sleep(min(pause, left_s))
            pause = min(2 * pause, LONGEST_PAUSE_S)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value

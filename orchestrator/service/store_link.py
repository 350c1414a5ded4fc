"""The store's line to Redis: waits while the server is away, runs the scripts of `lua/`, says in words what went wrong.

Neighbours: `store` and its parts, `tokens`. Invariants: a command is repeated only when the connection failed; a script that changes
something carries the same call token each time, and does nothing but repeat its reply when it has had its effect already; after the
patience a StoreError says what to look at. Passwords are never shown.
"""

from __future__ import annotations

import functools
import logging
import re
import secrets
import threading
from collections.abc import Callable, Iterable
from importlib.resources import files
from typing import Any, TypeVar

import redis
import stamina
from redis.backoff import NoBackoff
from redis.retry import Retry

from orchestrator.service.store_errors import StoreError

T = TypeVar("T")
Value = str | bytes | int | float

PATIENCE_S = 30.0  # a server that is started again and reads a large append-only file
MOST_PATIENCE_S = 60.0  # the scripts remember a call for 90 s
SOCKET_TIMEOUT_S = 10.0
AWAY = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.ReadOnlyError,
)  # the first: also a server that still reads its data
REFUSED = (redis.AuthenticationError,)  # a ConnectionError too, but waiting does not help


log = logging.getLogger(__name__)


class Link:
    """client: with decoded responses; prefix: of every key, in braces so that all lie in one slot. Thread-safe."""

    def __init__(self, client: redis.Redis, prefix: str, *, patience_s: float = PATIENCE_S) -> None:
        self.client: Any = client  # its annotations leave open whether replies are awaited
        self.base = "{" + prefix.rstrip(":") + "}:"
        self.patience_s = min(patience_s, MOST_PATIENCE_S)
        self._scripts: dict[str, Any] = {}
        self._lock = threading.Lock()

    @classmethod
    def from_url(cls, url: str, prefix: str, *, patience_s: float = PATIENCE_S) -> Link:
        """Raises StoreError for a malformed address; connects with the first command."""
        try:
            client = redis.Redis.from_url(
                url,
                decode_responses=True,
                socket_timeout=SOCKET_TIMEOUT_S,
                socket_connect_timeout=SOCKET_TIMEOUT_S,
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError as error:
            raise StoreError(
                f"the Redis address {without_password(url)!r} is malformed{_detail(url, error)}; it begins with redis://, "
                "rediss:// or unix://, and in a password `/`, `?`, `#` and `@` are written %2F, %3F, %23 and %40"
            ) from None  # the error may quote the password
        return cls(client, prefix, patience_s=patience_s)

    def close(self) -> None:
        self.client.close()

    @property
    def address(self) -> str:
        where = self.client.connection_pool.connection_kwargs
        return str(where.get("path") or f"{where.get('host', 'localhost')}:{where.get('port', 6379)}")

    def key(self, kind: str, name: str = "") -> str:
        return f"{self.base}{kind}:{name}" if name else self.base + kind

    def call(self, command: Callable[[Any], T]) -> T:
        """`command(client)`, again and again while the server is away. Only for commands that may be done twice."""
        try:
            return self._patiently(command)
        except REFUSED as error:
            raise StoreError(
                f"Redis at {self.address} refuses the password ({error}): correct the address, or `requirepass` of the server"
            ) from error
        except AWAY as error:
            raise StoreError(
                f"Redis at {self.address} did not answer for {self.patience_s:g} s ({error}): start it, or look at its log; "
                "`mgrd doctor` checks it"
            ) from error
        except redis.RedisError as error:
            raise StoreError(
                f"Redis at {self.address} refuses the work: {error}; look at its memory, its disk and its log (`mgrd doctor`)"
            ) from error

    def read(self, script: str, *arguments: Value) -> Any:
        """Run a script that changes nothing."""
        return self.call(lambda _: self._script(script)(keys=[self.base], args=arguments))

    def change(self, script: str, *arguments: Value) -> tuple[str, str]:
        """Run a script that changes something, once. Returns its status and what it tells beside."""
        token = secrets.token_hex(12)
        reply: str = self.call(lambda _: self._script(script)(keys=[self.base], args=[token, *arguments]))
        status, _, payload = reply.partition("\n")
        return status, payload

    def _patiently(self, command: Callable[[Any], T]) -> T:
        try:
            return command(self.client)
        except AWAY as error:
            if isinstance(error, REFUSED) or self.patience_s <= 0:
                raise
            log.warning("Redis at %s is away (%s); trying for up to %g s", self.address, error, self.patience_s)
        tries = stamina.retry_context(
            on=lambda error: isinstance(error, AWAY) and not isinstance(error, REFUSED),
            attempts=None,
            timeout=self.patience_s,
            wait_initial=0.05,
            wait_max=1.0,
            wait_jitter=0.1,
        )
        for attempt in tries:
            with attempt:
                return command(self.client)
        raise AssertionError("unreachable")

    def _script(self, name: str) -> Any:
        with self._lock:
            if name not in self._scripts:
                self._scripts[name] = self.client.register_script(script_text(name))
            return self._scripts[name]


READ_ONLY = frozenset({"page", "slice", "changes"})  # scripts without the common part


@functools.cache
def script_text(name: str) -> str:
    folder = files("orchestrator.service") / "lua"
    text = (folder / f"{name}.lua").read_text()
    return text if name in READ_ONLY else (folder / "common.lua").read_text() + text


def without_password(url: str) -> str:
    """All up to the last @ is left out: a password that is not encoded may hold any of the signs that end it."""
    return re.sub(r"//.*@", "//…@", url, flags=re.DOTALL)


def _detail(url: str, error: ValueError) -> str:
    return "" if "@" in url else f": {error}"


def joined(names: Iterable[str]) -> str:
    """As the scripts take sets of states."""
    return ",".join(sorted(names))

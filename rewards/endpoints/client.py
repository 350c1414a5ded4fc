"""One server over HTTP: JSON out, JSON back, with every way it can fail made a reason.

Neighbours: `judge` and `remote` say what to send and what to make of the answer; `rates` gives turns, `breaker` cuts a dead
endpoint off. Invariants: an attempt has a limit on its whole time and on the answer's bytes; redirects are not followed; only
what may pass by itself (429, 5xx, time-outs, broken connections, answers that are not JSON) is tried again, with back-off and
jitter, no sooner than the server asks; nothing a server says gets into a reason before secrets are struck out.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import logging
import math
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import httpx
import stamina

from rewards.endpoints.base import clean
from rewards.endpoints.breaker import Breaker
from rewards.endpoints.errors import BadRequest, CallFailed, EndpointFailed, RequestRefused
from rewards.endpoints.rates import Rates
from rewards.endpoints.urls import check_url, sends_in_the_clear
from rewards.secrets import redact

Answer = TypeVar("Answer")
BACKOFF_S, LONGEST_BACKOFF_S, JITTER_S = 0.5, 20.0, 1.0  # first and longest pause between attempts, added at random
EXCERPT = 200  # characters of an error's body in a reason
ERROR_BYTES = 64 * 1024  # of an error's body that are read
DENIED = frozenset({401, 402, 403, 404, 405, 410})  # as good as down: every request would get the same
UNFIT = frozenset({400, 413, 422})
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CallLimits:
    """timeout_s: one attempt, from connecting to the last byte; attempts: at most, of one call; patience_s: the longest pause
    that the server may ask for (longer: given up); answer_bytes: of an answer; failures, pause_s: of the breaker."""

    timeout_s: float
    attempts: int
    answer_bytes: int
    patience_s: float = 120.0
    failures: int = 5
    pause_s: float = 30.0

    @property
    def call_s(self) -> float:
        """Longest that one call may take, waits for its turns not counted."""
        pauses = (self.attempts - 1) * max(LONGEST_BACKOFF_S, self.patience_s)
        return self.attempts * self.timeout_s + pauses


class _Again(CallFailed):
    """An attempt failed in a way that may pass. wait_s: as the server asks, None: as the back-off says."""

    def __init__(self, reason: str, wait_s: float | None = None, *, alive: bool = False) -> None:
        super().__init__(reason)
        self.wait_s = wait_s
        self.alive = alive


class JsonClient:
    """Posts JSON to one URL. token: sent as a bearer token. Use in one event loop; `aclose` at the end."""

    def __init__(self, url: str, limits: CallLimits, rates: Rates, token: str = "") -> None:
        self.url = check_url(url)
        self.limits = limits
        self.rates = rates
        self.breaker = Breaker(url, limits.failures, limits.pause_s)
        if token and sends_in_the_clear(url):
            log.warning("the endpoint %s gets its token over a connection that is not encrypted", url)
        # Compressed answers are not asked for: their size would be known too late.
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._http = httpx.AsyncClient(
            headers=headers,
            follow_redirects=False,
            timeout=None,
            verify=_tls(),
            limits=httpx.Limits(max_connections=rates.concurrency, max_keepalive_connections=rates.concurrency),
        )

    async def aclose(self) -> None:
        await self._http.aclose()

    async def post(
        self,
        body: bytes,
        read: Callable[[Any], Answer],
        *,
        tokens: float = 0.0,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """What `read` makes of the answer's JSON (it raises ValueError for what it can't use, which is tried again).

        tokens: reckoned cost, for the rate limit. Raises CallFailed (one of its kinds) with the reason.
        """
        tried = 0
        with self.breaker.guard():
            try:
                async for attempt in stamina.retry_context(
                    on=self._wait_for,
                    attempts=self.limits.attempts,
                    timeout=None,
                    wait_initial=BACKOFF_S,
                    wait_max=LONGEST_BACKOFF_S,
                    wait_jitter=JITTER_S,
                ):
                    with attempt:
                        await self.rates.turn(tokens)
                        tried += 1
                        return await self._attempt(body, read, headers or {})
            except _Again as error:
                kind = RequestRefused if error.alive else EndpointFailed
                asked = f", and asks for {error.wait_s:.0f} s of patience" if error.wait_s else ""
                raise kind(f"{error}{asked} ({tried} {'attempts' if tried > 1 else 'attempt'})") from None
        raise AssertionError("the loop above returns or raises")

    def _wait_for(self, error: Exception) -> bool | float:
        """Whether a failed attempt is followed by another, and after how long when the server has said so."""
        if not isinstance(error, _Again):
            return False
        if error.wait_s is None:
            return True
        if error.wait_s > self.limits.patience_s:
            return False
        self.rates.pause(error.wait_s)
        return 0.0  # the pause is waited for with everybody else, in `turn`

    async def _attempt(self, body: bytes, read: Callable[[Any], Answer], headers: Mapping[str, str]) -> Answer:
        self.breaker.check()
        try:
            async with (
                asyncio.timeout(self.limits.timeout_s),
                self._http.stream("POST", self.url, content=body, headers=dict(headers)) as response,
            ):
                if response.status_code != 200:
                    raise await self._refusal(response)
                encoding = response.headers.get("Content-Encoding", "identity")
                if encoding != "identity":
                    raise EndpointFailed(f"answered in the encoding {encoding[:20]!r}, which was not asked for")
                data = await _at_most(response, self.limits.answer_bytes)
        except TimeoutError:
            raise _Again(f"did not answer within {self.limits.timeout_s:g} s") from None
        except httpx.TransportError as error:
            raise _Again(f"can't be reached: {type(error).__name__}: {_excerpt(str(error))}") from None
        except httpx.HTTPError as error:
            raise EndpointFailed(f"can't be asked: {type(error).__name__}: {_excerpt(str(error))}") from None
        try:
            return read(json.loads(data))
        except (ValueError, RecursionError) as error:
            raise _Again(f"answered what can't be used: {_excerpt(str(error))}") from None

    async def _refusal(self, response: httpx.Response) -> CallFailed:
        status = response.status_code
        try:
            text = _excerpt((await _at_most(response, ERROR_BYTES, cut=True)).decode("utf-8", "replace"))
        except (httpx.HTTPError, EndpointFailed) as error:
            text = f"(no text: {type(error).__name__})"
        said = f"answered {status}: {text}" if text else f"answered {status}"
        if response.is_redirect:
            return EndpointFailed(f"answered {status}, a redirect, which is not followed; give the final URL")
        if status == 429 or status >= 500 or status == 408:
            return _Again(said, _retry_after_s(response.headers.get("Retry-After")), alive=status == 429)
        if status in UNFIT:
            return BadRequest(said)
        return EndpointFailed(said) if status in DENIED or status < 400 else RequestRefused(said)


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    """The machine's certificates, read once a process."""
    return httpx.create_ssl_context()


async def _at_most(response: httpx.Response, limit: int, *, cut: bool = False) -> bytes:
    """The raw body. Raises EndpointFailed when it is longer, unless it is to be cut."""
    data = bytearray()
    async for chunk in response.aiter_raw():
        data += chunk
        if len(data) > limit:
            if cut:
                break
            raise EndpointFailed(f"answered more than {limit} bytes")
    return bytes(data[:limit])


def _excerpt(text: str) -> str:
    """One line of it, secrets struck out before it is cut."""
    return " ".join(clean(redact(text), ERROR_BYTES).split())[:EXCERPT]


def _retry_after_s(value: str | None) -> float | None:
    """Seconds of a Retry-After header (a number or a date, RFC 9110, section 10.2.3); None for none or nonsense."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        date = email.utils.parsedate_tz(value)
        if date is None:
            return None
        seconds = email.utils.mktime_tz(date) - time.time()
    return None if math.isnan(seconds) else max(0.0, seconds)

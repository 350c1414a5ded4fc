"""How fast an endpoint may be asked: requests at once, requests a minute, tokens a minute.

Neighbours: `client` takes a turn for every attempt. Invariants: turns come first in, first out; in any 60 seconds no more than
the set number of requests begins (a bucket alone would let twice as many through in its first minute); when the server asks
for a pause, everybody pauses.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiolimiter import AsyncLimiter

BURST_SHARE = 1 / 12  # of a minute's allowance may be taken at once: 5 seconds' worth
JITTER_S = 0.25  # spreads those who waited for the same pause


def bucket(per_minute: float) -> tuple[float, float]:
    """(burst, seconds to refill it) of a leaky bucket that lets no more than `per_minute` through in any 60 seconds.

    A bucket lets burst + 60 * burst / seconds through in 60 seconds; that is set equal to the limit. The burst is one at least,
    so one a minute is the slowest: there both ends of a minute may see one.
    """
    burst = max(1.0, per_minute * BURST_SHARE)
    return burst, 60.0 * burst / (per_minute - burst) if per_minute > burst else 60.0


class Rates:
    """Limits of one endpoint; 0 a minute: none. Use in one event loop."""

    def __init__(self, concurrency: int, requests_per_minute: float = 0.0, tokens_per_minute: float = 0.0) -> None:
        self.requests_per_minute = requests_per_minute
        self.tokens_per_minute = tokens_per_minute
        self.concurrency = concurrency
        self._slots = asyncio.Semaphore(concurrency)
        self._turn = asyncio.Lock()
        self._requests = AsyncLimiter(*bucket(requests_per_minute)) if requests_per_minute else None
        self._tokens = AsyncLimiter(*bucket(tokens_per_minute)) if tokens_per_minute else None
        self._owed = 0.0  # tokens that answers took beyond what was reserved for them; below 0: left over
        self._resume_at = 0.0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """A place in the queue: one of `concurrency` that are being worked on."""
        async with self._slots:
            yield

    async def turn(self, tokens: float = 0.0) -> None:
        """Returns when a request may begin that is reckoned to take this many tokens."""
        async with self._turn:
            while (pause := self._resume_at - _now()) > 0:
                await asyncio.sleep(pause + random.uniform(0, JITTER_S))
            if self._requests is not None:
                await self._requests.acquire()
            if self._tokens is not None:
                await self._take(self._tokens, tokens)

    async def _take(self, limiter: AsyncLimiter, tokens: float) -> None:
        wanted = tokens + self._owed
        self._owed = min(wanted, 0.0)
        while wanted > 0:
            portion = min(wanted, limiter.max_rate)
            await limiter.acquire(portion)
            wanted -= portion

    def settle(self, reserved: float, used: float) -> None:
        """Puts what an answer really took in place of what was reserved; the next turn pays or gets the difference."""
        if self._tokens is not None:
            self._owed += used - reserved

    def pause(self, seconds: float) -> None:
        """Nobody begins before this many seconds have passed."""
        self._resume_at = max(self._resume_at, _now() + seconds)


def _now() -> float:
    return asyncio.get_running_loop().time()

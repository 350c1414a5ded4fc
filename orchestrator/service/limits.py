"""How much one caller may ask: bytes a request, requests a second, watchers at once.

Neighbours: `api.app` puts `BodyLimit` in front of everything, `access` asks the rates once it knows who calls. Invariants: no more of a
body than its limit is ever held, whatever the header says; what is kept of callers is bounded; one caller's rate is not another's.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Callable

from aiolimiter import AsyncLimiter
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CALLERS = 4096  # buckets kept: a bucket that was forgotten starts full, which costs nobody anything


class Rates:
    """rate_per_s: requests a second in the long run; burst: at once. Used by one event loop."""

    def __init__(self, rate_per_s: float, burst: int) -> None:
        self.rate_per_s, self.burst = rate_per_s, burst
        self._buckets: OrderedDict[str, AsyncLimiter] = OrderedDict()

    async def take(self, caller: str, amount: float = 1.0) -> float:
        """0.0, or the seconds until this caller may ask again."""
        bucket = self._buckets.pop(caller, None) or AsyncLimiter(self.burst, self.burst / self.rate_per_s)
        self._buckets[caller] = bucket
        if len(self._buckets) > CALLERS:
            self._buckets.popitem(last=False)
        amount = min(amount, self.burst)
        if bucket.has_capacity(amount):
            await bucket.acquire(amount)
            return 0.0
        return max(1.0, math.ceil(amount / self.rate_per_s))


class BodyLimit:
    """ASGI middleware: 413 for a body above `limit(path)` bytes; 0: the route limits it itself."""

    def __init__(self, app: ASGIApp, limit: Callable[[str], int]) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = self.limit(scope["path"]) if scope["type"] == "http" else 0
        if not limit:
            await self.app(scope, receive, send)
            return
        message = f"the body is larger than {limit} bytes"
        claimed = dict(scope["headers"]).get(b"content-length", b"0")
        if claimed.isdigit() and int(claimed) > limit:
            await _refuse(send, message)
            return
        arrived = 0

        async def counted() -> Message:
            nonlocal arrived
            part = await receive()
            arrived += len(part.get("body", b""))
            if arrived > limit:
                raise HTTPException(413, message)  # whoever reads the body passes this on
            return part

        await self.app(scope, counted, send)


async def _refuse(send: Send, message: str) -> None:
    body = json.dumps({"error": {"message": message, "field": "body", "hint": "send less at a time"}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 413, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})

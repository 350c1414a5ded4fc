"""Keeps bodies of requests below a limit while they arrive.

Neighbours: `http` puts it in front of the app. Invariant: no more than the limit is ever held, whatever the header says.
"""

from __future__ import annotations

import json

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class TooLarge(Exception):
    """The body went over the limit."""


class BodyLimit:
    """ASGI middleware: 413 for a body above max_bytes."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        claimed = dict(scope["headers"]).get(b"content-length", b"0")
        if claimed.isdigit() and int(claimed) > self.max_bytes:
            await self._refuse(send)
            return
        arrived, answering = 0, False

        async def counted() -> Message:
            nonlocal arrived
            message = await receive()
            arrived += len(message.get("body", b""))
            if arrived > self.max_bytes:
                raise TooLarge
            return message

        async def watched(message: Message) -> None:
            nonlocal answering
            answering = True
            await send(message)

        try:
            await self.app(scope, counted, watched)
        except TooLarge:
            if not answering:
                await self._refuse(send)

    async def _refuse(self, send: Send) -> None:
        message = f"the body is larger than {self.max_bytes >> 20} MB; send fewer samples at a time"
        body = json.dumps({"error": {"field": "body", "message": message}}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 413, "headers": [*headers, (b"connection", b"close")]})
        await send({"type": "http.response.body", "body": body})

"""Server-sent events: bytes in, frames out, and where to go on after a disconnect (pure).

Neighbours: `client` and `async_client` read responses with it. Invariants: lines end as the standard says, never at a Unicode line
separator inside the data; a frame cut off by a disconnect is dropped, the server sends it again.
"""

from __future__ import annotations

from dataclasses import dataclass

MEDIA_TYPE = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Frame:
    """One event as sent. id: the last one named so far; kind: "message" where the server names none."""

    id: str
    kind: str
    data: str


class FrameReader:
    """Feed it what arrives. last_id: to be sent as Last-Event-ID when connecting again; retry_s: the pause the server asks for."""

    def __init__(self, last_id: str = "") -> None:
        self.last_id = last_id
        self.retry_s: float | None = None
        self._begin()

    def _begin(self) -> None:
        self._rest = b""
        self._swallow_newline = False
        self._id = self.last_id
        self._kind = ""
        self._data: list[str] = []

    def reconnected(self) -> None:
        """Drops what was not complete."""
        self._begin()

    def feed(self, chunk: bytes) -> list[Frame]:
        """The frames that this chunk completes."""
        if self._swallow_newline and chunk:
            self._swallow_newline = False
            chunk = chunk.removeprefix(b"\n")
        lines = (self._rest + chunk).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._swallow_newline = chunk.endswith(b"\r")
        self._rest = lines.pop()
        return [frame for line in lines if (frame := self._line(line.decode("utf-8", "replace"))) is not None]

    def _line(self, line: str) -> Frame | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._kind = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry_s = int(value) / 1000
        return None

    def _dispatch(self) -> Frame | None:
        self.last_id = self._id
        kind, data = self._kind or "message", self._data
        self._kind, self._data = "", []
        return Frame(self.last_id, kind, "\n".join(data)) if data else None

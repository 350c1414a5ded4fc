"""Bytes of a log as they arrive, as lines, also over a connection that broke (pure).

Neighbours: `client` and `async_client` follow logs with it. Invariants: only a newline ends a line; a character split over two chunks stays
whole; after a reconnect nothing comes twice and nothing is missing, as long as no more lines were written meanwhile than are asked for.
"""

from __future__ import annotations

import codecs
from collections import deque

MARK = 20  # lines by which the place is found again: so many in a row hardly come twice
AGAIN = 1000  # last lines that are asked for after a reconnect


class LineReader:
    """Feed it what arrives; `rest` is what came after the last newline."""

    def __init__(self) -> None:
        self._seen: deque[str] = deque(maxlen=MARK)
        self._held: list[str] | None = None  # lines after a reconnect, until the place is found
        self._begin()

    def _begin(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.rest = ""

    def feed(self, chunk: bytes) -> list[str]:
        """The lines that this chunk completes and that were not told before, without their ends."""
        *complete, self.rest = (self.rest + self._decoder.decode(chunk)).split("\n")
        lines = [line.removesuffix("\r") for line in complete]
        if self._held is not None:
            self._held += lines
            lines = self._found() or []
        self._seen.extend(lines)
        return lines

    def tail(self, asked: int | None) -> int | None:
        """How many of the last lines to ask for: as the user did, after a reconnect enough to find the place."""
        return AGAIN if self._seen or self._held is not None else asked

    def reconnected(self) -> None:
        """The next chunk begins anew, some lines before the place that was reached."""
        self._begin()
        self._held = [] if self._seen else None

    def end(self) -> list[str]:
        """What is left when nothing more comes."""
        held, self._held = self._held or [], None
        return [*held, self.rest] if self.rest else held

    def _found(self) -> list[str] | None:
        """The lines behind the place, or None while it has not come; all of them where it can't come any more."""
        assert self._held is not None
        held, mark = self._held, list(self._seen)
        for place in range(len(mark), len(held) + 1):
            if held[place - len(mark) : place] == mark:
                self._held = None
                return held[place:]
        if len(held) < AGAIN:
            return None
        self._held = None
        return held


def lines_of(text: str) -> list[str]:
    """A whole log; only a newline ends a line."""
    reader = LineReader()
    return [*reader.feed(text.encode()), *reader.end()]

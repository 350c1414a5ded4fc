"""Bytes of a log as they arrive, as lines (pure).

Neighbours: `client` and `async_client` follow logs with it. Invariant: only a newline ends a line; a character split over two chunks
stays whole.
"""

from __future__ import annotations

import codecs


class LineReader:
    """Feed it what arrives; `rest` is what came after the last newline."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.rest = ""

    def feed(self, chunk: bytes) -> list[str]:
        """The lines that this chunk completes, without their ends."""
        *lines, self.rest = (self.rest + self._decoder.decode(chunk)).split("\n")
        return [line.removesuffix("\r") for line in lines]

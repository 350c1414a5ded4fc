"""What every reward that asks a server is: samples in, an outcome a sample out.

Neighbours: `judge` and `remote` are the shipped ones; `runner` makes them from resolved terms and drives them.
Invariants: `score` answers for every sample, in order, and raises nothing for what a server does; everything it waits for has
a limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from rewards.endpoints.ledger import CostLedger
from rewards.messages import Sample
from rewards.sandbox_wire import Outcome

SECRET = "secret"  # parameter of an endpoint reward that names the secret it needs ("" none)
MAX_NOTES = 4000  # characters of text that are kept beside a score


class Endpoint(Protocol):
    """A server that scores. Made by `call(secrets, **parameters)` and used in one event loop."""

    async def score(self, samples: Sequence[Sample]) -> list[Outcome]:
        """An outcome a sample, in order; may run several times at once."""

    def limit_s(self, samples: int) -> float:
        """Longest that scoring this many may take when the server does its worst, in seconds."""

    async def aclose(self) -> None:
        """Lets go of connections."""


@runtime_checkable
class Billed(Protocol):
    """An endpoint that costs money."""

    ledger: CostLedger


def clean(text: str, limit: int) -> str:
    """Text that can be kept: encodable, no control characters but line breaks and tabs, at most `limit` characters."""
    text = text.encode("utf-8", "replace").decode()
    text = "".join(c for c in text if c.isprintable() or c in "\n\t")
    return text if len(text) <= limit else f"{text[: limit - 1]}…"

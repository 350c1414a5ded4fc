"""A remote reward at work: samples packed into requests, answers unpacked into outcomes.

Neighbours: `remote` holds the parameters, `remote_wire` the schema, `client` the connection. Invariants: a request that the service
refuses for what is in it (400, 413, 422) is halved until the sample at fault is alone, so others are scored; every retry of a request
carries the same Idempotency-Key.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import Iterator, Sequence

from rewards.endpoints.client import CallLimits, JsonClient
from rewards.endpoints.errors import BadRequest, CallFailed
from rewards.endpoints.rates import Rates
from rewards.endpoints.remote import RemoteSettings
from rewards.endpoints.remote_wire import read_results, request_json, sample_json
from rewards.messages import Sample
from rewards.sandbox_wire import Outcome

MB = 1_000_000
Entry = tuple[int, bytes]  # position of a sample, and the sample as JSON


class Remote:
    """The endpoint of reward `remote`. token: sent as a bearer token ("" none). Use in one event loop."""

    def __init__(self, settings: RemoteSettings, token: str = "") -> None:
        self.settings = settings
        self.rates = Rates(settings.concurrency, settings.requests_per_minute)
        limits = CallLimits(
            timeout_s=settings.timeout_s,
            attempts=settings.attempts,
            answer_bytes=int(settings.answer_mb * MB),
            patience_s=settings.limit_s,
            failures=settings.breaker_failures,
            pause_s=settings.breaker_pause_s,
        )
        self.client = JsonClient(settings.url, limits, self.rates, token)

    async def aclose(self) -> None:
        await self.client.aclose()

    def limit_s(self, samples: int) -> float:
        """When the service refuses one sample of every request, a request becomes about twice as many as it has samples."""
        requests = 2 * samples
        return math.ceil(requests / self.settings.concurrency) * self.settings.limit_s

    async def score(self, samples: Sequence[Sample]) -> list[Outcome]:
        outcomes: dict[int, Outcome] = {}
        entries: list[Entry] = []
        limit = int(self.settings.request_mb * MB)
        for position, sample in enumerate(samples):
            data = sample_json(sample)
            if len(request_json([data], self.settings.options or {})) > limit:
                outcomes[position] = Outcome(
                    None, f"was not asked: the sample has {len(data)} bytes, a request {limit}"
                )
            else:
                entries.append((position, data))
        batches = packed(entries, self.settings.batch, limit - len(request_json([], self.settings.options or {})))
        for found in await asyncio.gather(*(self._batch(batch) for batch in batches)):
            outcomes |= found
        return [outcomes[position] for position in range(len(samples))]

    async def _batch(self, batch: Sequence[Entry]) -> dict[int, Outcome]:
        began = time.monotonic()
        try:
            found = await self._request(batch)
        except BadRequest as error:
            if len(batch) == 1:
                return {batch[0][0]: Outcome(None, str(error))}
            middle = len(batch) // 2
            halves = await asyncio.gather(self._batch(batch[:middle]), self._batch(batch[middle:]))
            return halves[0] | halves[1]
        except CallFailed as error:
            found = [Outcome(None, str(error))] * len(batch)
        seconds = (time.monotonic() - began) / len(batch)
        return {
            position: Outcome(outcome.score, outcome.reason, parts=outcome.parts, notes=outcome.notes, seconds=seconds)
            for (position, _), outcome in zip(batch, found, strict=True)
        }

    async def _request(self, batch: Sequence[Entry]) -> list[Outcome]:
        """Raises CallFailed."""
        body = request_json([data for _, data in batch], self.settings.options or {})
        key = hashlib.sha256(body).hexdigest()
        async with self.rates.slot():
            try:
                async with asyncio.timeout(self.settings.limit_s):
                    return await self.client.post(
                        body,
                        lambda answer: read_results(answer, len(batch), self.settings.service),
                        headers={"Idempotency-Key": key},
                    )
            except TimeoutError:
                raise CallFailed(f"gave no results within {self.settings.limit_s:g} s") from None


def packed(entries: Sequence[Entry], most: int, limit: int) -> Iterator[list[Entry]]:
    """Entries in order, in batches of at most `most` and, commas included, `limit` bytes; a longer entry is alone."""
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        if batch and (len(batch) == most or size + len(entry[1]) + 1 > limit):
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += len(entry[1]) + 1
    if batch:
        yield batch

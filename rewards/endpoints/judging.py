"""The judge at work: a queue, a message a vote, a strict reading, the votes joined, everything paid for in the ledger.

Neighbours: `judge` holds the parameters, `prompts` the words, `scale` the reading, `client` the connection. Invariants: an answer that
can't be read is invalid and keeps its text, never 0; a verdict needs more than half of its votes; when the budget is spent nothing
more is asked (what is already under way, at most `concurrency` requests, is paid beyond it).
"""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rewards.endpoints.base import MAX_NOTES, clean
from rewards.endpoints.chat import Completion, estimated_tokens, read_completion, request_body
from rewards.endpoints.client import CallLimits, JsonClient
from rewards.endpoints.errors import CallFailed
from rewards.endpoints.judge import JudgeSettings
from rewards.endpoints.ledger import CostLedger
from rewards.endpoints.prompts import compiled, render
from rewards.endpoints.rates import Rates
from rewards.endpoints.scale import answer_schema, read_answer
from rewards.errors import RewardError
from rewards.messages import Sample
from rewards.sandbox_wire import Outcome

ANSWER_BYTES = 4 * 2**20
RETRY_TEMPERATURE = 0.7  # at 0 the same question would only get the same answer again
UNCOUNTED_TOKENS = 1024  # reckoned for an answer whose length is not limited


@dataclass(frozen=True, slots=True)
class _Vote:
    """score is None when the vote is lost, and reason says why; notes: what the judge wrote."""

    score: float | None
    reason: str
    notes: str


class Judge:
    """The endpoint of reward `judge`. token: sent as a bearer token ("" none). Use in one event loop."""

    def __init__(self, settings: JudgeSettings, token: str = "") -> None:
        """Raises RewardError for a prompt that can't be used."""
        compiled(settings.prompt)
        self.settings = settings
        self.levels = settings.scale
        self.ledger = CostLedger("judge")
        self.rates = Rates(settings.concurrency, settings.requests_per_minute, settings.tokens_per_minute)
        limits = CallLimits(
            timeout_s=settings.timeout_s,
            attempts=settings.attempts,
            answer_bytes=ANSWER_BYTES,
            patience_s=settings.limit_s,
            failures=settings.breaker_failures,
            pause_s=settings.breaker_pause_s,
        )
        self.client = JsonClient(settings.chat_url, limits, self.rates, token)

    async def aclose(self) -> None:
        await self.client.aclose()

    def limit_s(self, samples: int) -> float:
        return math.ceil(samples * self.settings.votes / self.settings.concurrency) * self.settings.limit_s

    async def score(self, samples: Sequence[Sample]) -> list[Outcome]:
        return list(await asyncio.gather(*(self._judged(sample) for sample in samples)))

    async def _judged(self, sample: Sample) -> Outcome:
        try:
            message = render(
                self.settings.prompt,
                sample,
                self.levels,
                self.settings.answer,
                with_reasoning=self.settings.with_reasoning,
            )
        except (ValueError, RewardError) as error:
            return Outcome(None, f"can't judge: {error}")
        began = time.monotonic()
        votes = await asyncio.gather(*(self._vote(message) for _ in range(self.settings.votes)))
        return self._joined(votes, time.monotonic() - began)

    async def _vote(self, message: str) -> _Vote:
        async with self.rates.slot():
            try:
                async with asyncio.timeout(self.settings.limit_s):
                    return await self._read(message)
            except TimeoutError:
                return _Vote(None, f"gave no verdict within {self.settings.limit_s:g} s", "")
            except CallFailed as error:
                return _Vote(None, str(error), "")

    async def _read(self, message: str) -> _Vote:
        """Asks until an answer can be read. Raises CallFailed."""
        problem, content, settings = "", "", self.settings
        for again in range(settings.retries + 1):
            if settings.budget and self.ledger.total.money >= settings.budget:
                spent = f"budget spent: {self.ledger.total.money:.4g} of {settings.budget:g}"
                return _Vote(None, f"is not asked, {spent}", clean(content, MAX_NOTES))
            temperature = settings.temperature
            if again and temperature is not None:
                temperature = max(temperature, RETRY_TEMPERATURE)
            completion = await self._ask(message, temperature)
            content = completion.content
            try:
                if completion.cut:
                    raise ValueError(f"it was cut at {completion.tokens_out} tokens")
                judgement = read_answer(content, self.levels, settings.answer)
            except ValueError as error:
                problem = str(error)
            else:
                notes = f"{judgement.level.label}: {judgement.rationale}"
                return _Vote(judgement.level.score, "", clean(notes, MAX_NOTES))
        times = f" ({settings.retries + 1} answers)" if settings.retries else ""
        return _Vote(None, f"gave an answer that can't be read: {problem}{times}", clean(content, MAX_NOTES))

    async def _ask(self, message: str, temperature: float | None) -> Completion:
        settings = self.settings
        body = request_body(
            settings.model,
            message,
            temperature=temperature,
            max_tokens=settings.max_tokens,
            schema=answer_schema(self.levels) if settings.answer == "schema" else None,
            extra=settings.extra or {},
        )
        reserved = estimated_tokens(message) + (settings.max_tokens or UNCOUNTED_TOKENS)
        completion = await self.client.post(body, lambda answer: read_completion(answer, message), tokens=reserved)
        tokens_in, tokens_out = completion.tokens_in, completion.tokens_out
        self.rates.settle(reserved, tokens_in + tokens_out)
        money = settings.money(tokens_in, tokens_out)
        self.ledger.add(settings.model, tokens_in, tokens_out, money, estimated=completion.estimated)
        return completion

    def _joined(self, votes: Sequence[_Vote], seconds: float) -> Outcome:
        scores = [vote.score for vote in votes if vote.score is not None]
        if len(votes) == 1:
            return Outcome(votes[0].score, votes[0].reason, notes=votes[0].notes, seconds=seconds)
        notes = clean("\n\n".join(f"[{i}] {vote.notes or vote.reason}" for i, vote in enumerate(votes, 1)), MAX_NOTES)
        if 2 * len(scores) <= len(votes):
            reasons = "; ".join(dict.fromkeys(vote.reason for vote in votes if vote.reason))
            return Outcome(None, f"got {len(scores)} of {len(votes)} votes: {reasons}", notes=notes, seconds=seconds)
        score = statistics.median(scores) if self.settings.vote == "median" else statistics.fmean(scores)
        parts = {"votes": float(len(scores)), "spread": max(scores) - min(scores)}
        return Outcome(score, parts=parts, notes=notes, seconds=seconds)

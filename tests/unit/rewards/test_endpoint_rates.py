"""Requests and tokens a minute hold in every minute, the first one included."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.endpoints.rates import Rates, bucket


class FastLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        self.now = 1000.0
        loop = self

        class Selector(selectors.SelectSelector):
            def select(self, timeout: float | None = None) -> list[Any]:
                loop.now += max(timeout or 0.0, 1e-6)  # a clock that stands still would never meet a rounded timer
                return super().select(0)

        super().__init__(Selector())

    def time(self) -> float:
        return self.now


def run(work: Coroutine[Any, Any, list[float]]) -> list[float]:
    loop = FastLoop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


def most_in_a_minute(events: list[tuple[float, float]]) -> float:
    """Largest sum of amounts over any 60 seconds."""
    return max(sum(amount for at, amount in events if start <= at < start + 60 - 1e-6) for start, _ in events)


@given(per_minute=st.floats(1, 1e6))
def test_a_bucket_lets_no_more_than_the_rate_through_in_a_minute(per_minute: float) -> None:
    burst, seconds = bucket(per_minute)
    assert burst >= 1 and seconds > 0
    through = burst + 60 * burst / seconds
    assert through <= per_minute * (1 + 1e-9) or per_minute < 2
    assert through >= per_minute * (1 - 1e-9)


@pytest.mark.parametrize("per_minute", [1, 2, 7, 60, 1000])
def test_turns_hold_the_rate_in_every_minute_and_use_most_of_it(per_minute: int) -> None:
    async def work() -> list[float]:
        rates = Rates(8, requests_per_minute=per_minute)
        times: list[float] = []

        async def one() -> None:
            await rates.turn()
            times.append(asyncio.get_running_loop().time())

        await asyncio.gather(*(one() for _ in range(3 * per_minute)))
        return times

    times = run(work())
    assert most_in_a_minute([(at, 1) for at in times]) <= per_minute
    slowest_s = 60 / max(1, per_minute - max(1, per_minute / 12))  # between two turns, when the bucket is full
    assert times[-1] - times[0] <= 3 * per_minute * slowest_s + 1


def test_turns_come_in_the_order_they_were_asked_for() -> None:
    async def work() -> list[float]:
        rates = Rates(8, requests_per_minute=10, tokens_per_minute=1000)
        order: list[float] = []

        async def one(number: int, tokens: float) -> None:
            await rates.turn(tokens)
            order.append(number)

        await asyncio.gather(*(one(number, 900 if number % 3 == 0 else 1) for number in range(30)))
        return order

    assert run(work()) == list(range(30))


def test_tokens_hold_their_rate_whatever_was_reserved() -> None:
    """Every answer takes twice what was reckoned: after the first few the next ones pay for it."""
    spent: list[tuple[float, float]] = []

    async def work() -> list[float]:
        rates = Rates(4, tokens_per_minute=10_000)
        clock = asyncio.get_running_loop()

        async def one() -> None:
            async with rates.slot():
                await rates.turn(300)
                spent.append((clock.time(), 600))
                rates.settle(300, 600)

        await asyncio.gather(*(one() for _ in range(120)))
        return []

    run(work())
    assert most_in_a_minute(spent) <= 10_000 + 4 * 600
    assert spent[-1][0] - spent[0][0] <= 60 * (120 * 600 / 10_000) * 1.2


def test_a_request_larger_than_the_bucket_waits_for_all_of_it() -> None:
    async def work() -> list[float]:
        rates = Rates(4, tokens_per_minute=1200)
        start = asyncio.get_running_loop().time()
        await rates.turn(5000)
        return [asyncio.get_running_loop().time() - start]

    assert 200 < run(work())[0] < 300


def test_a_pause_is_everybodys() -> None:
    async def work() -> list[float]:
        rates = Rates(4)
        start = asyncio.get_running_loop().time()
        rates.pause(30)
        rates.pause(5)
        await asyncio.gather(*(rates.turn() for _ in range(5)))
        return [asyncio.get_running_loop().time() - start]

    assert 30 <= run(work())[0] < 31

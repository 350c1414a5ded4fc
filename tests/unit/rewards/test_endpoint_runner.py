"""The runner holds endpoints to their promises, also installed ones that break them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
from endpoint_server import EndpointServer, completion, results

from rewards import RewardError, RewardTerm, Sample, registered, reward
from rewards.endpoints import runner as runner_module
from rewards.endpoints.base import Endpoint
from rewards.endpoints.runner import EndpointRunner, needed_secrets
from rewards.registry import _functions, resolve
from rewards.sample_wire import encode_sample
from rewards.sandbox_wire import Outcome, Unit

QUESTION = {"id": "q", "prompt": "?", "answer": "violin", "choices": (), "audio": (), "history": (), "rubric": ""}
LINE = encode_sample(Sample("q/0", QUESTION, "A violin.", "", "A violin.", False, True, 4, 0))


class Scripted:
    """An endpoint that does as a test says."""

    def __init__(self, work: Callable[[Sequence[Sample]], Any], limit_s: float = 1.0) -> None:
        self.work = work
        self.wait_s = limit_s
        self.closed = False

    def limit_s(self, samples: int) -> float:
        return self.wait_s

    async def score(self, samples: Sequence[Sample]) -> list[Outcome]:
        result = self.work(samples)
        return await result if asyncio.iscoroutine(result) else result

    async def aclose(self) -> None:
        self.closed = True


@pytest.fixture
def install() -> Iterator[Callable[[Scripted], EndpointRunner]]:
    """Registers an endpoint as an installed package would, and starts a runner with it."""
    registered()  # the shipped ones stay, whatever is forgotten afterwards
    before, started = dict(_functions), []

    def start(endpoint: Scripted) -> EndpointRunner:
        @reward("installed", endpoint=True)
        def installed(secrets: Mapping[str, str]) -> Endpoint:
            return endpoint

        runner = EndpointRunner([resolve(RewardTerm("installed", 1.0, "any"))])
        runner.start()
        started.append(runner)
        return runner

    yield start
    for runner in started:
        runner.close()
    _functions.clear()
    _functions.update(before)


@pytest.mark.parametrize(
    ("work", "reason"),
    [
        (lambda samples: 1 / 0, "installed raised ZeroDivisionError: division by zero"),
        (lambda samples: [Outcome(1.0)], "installed gave 1 outcomes for 2 samples"),
        (lambda samples: [Outcome(float("nan"))] * 2, "installed gave the score nan, not a finite number"),
        (lambda samples: [Outcome(None)] * 2, "installed gave no score"),
        (lambda samples: [Outcome(None, "x" * 9000)] * 2, "installed xxx"),
        (lambda samples: None, "installed gave NoneType, not a list of outcomes"),
        (lambda samples: [1.0, 2.0], "installed gave a list of float, not of outcomes"),
    ],
)
def test_what_an_installed_endpoint_does_wrong_is_a_reason(
    install: Callable[[Scripted], EndpointRunner], work: Callable[[Sequence[Sample]], Any], reason: str
) -> None:
    outcomes = install(Scripted(work)).score([LINE, LINE], [Unit(0, 0), Unit(1, 0)])
    assert [outcome.score for outcome in outcomes] == [None, None]
    assert all(outcome.reason.startswith(reason) and len(outcome.reason) <= 500 for outcome in outcomes)


def test_an_endpoint_that_outlasts_its_own_limit_is_cut_off(
    install: Callable[[Scripted], EndpointRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "ALLOWANCE_S", 0.1)
    runner = install(Scripted(lambda _: asyncio.sleep(60), limit_s=0.1))
    began = time.monotonic()
    (outcome,) = runner.score([LINE], [Unit(0, 0)])
    assert outcome.reason.startswith("installed did not finish 1 samples within") and time.monotonic() - began < 5


def test_closing_ends_what_is_under_way_and_closes_the_endpoints(install: Callable[[Scripted], EndpointRunner]) -> None:
    endpoint = Scripted(lambda _: asyncio.sleep(60), limit_s=60)
    runner, errors = install(endpoint), []

    def work() -> None:
        with pytest.raises(RewardError, match="closed while they were scoring") as caught:
            runner.score([LINE], [Unit(0, 0)])
        errors.append(caught.value)

    thread = threading.Thread(target=work)
    thread.start()
    while not runner._busy["sha256"] and not sum(runner._busy.values()):
        time.sleep(0.005)
    runner.close()
    thread.join(5)
    assert errors and endpoint.closed
    runner.close()
    with pytest.raises(RewardError, match=r"call start\(\) first"):
        runner.score([LINE], [Unit(0, 0)])


def test_terms_are_scored_side_by_side_and_put_back_in_order() -> None:
    with EndpointServer(
        lambda request: completion("LEVEL: 5") if "messages" in request.body else results(*[{"score": 7}] * 2)
    ) as server:
        terms = [
            resolve(RewardTerm("judge", 1.0, "any", {"url": server.url, "model": "m"})),
            resolve(RewardTerm("remote", 1.0, "any", {"url": server.url})),
        ]
        with EndpointRunner(terms) as runner:
            units = [Unit(0, 0), Unit(0, 1), Unit(1, 0), Unit(1, 1)]
            assert [outcome.score for outcome in runner.score([LINE, LINE], units)] == [1.0, 7.0, 1.0, 7.0]
            assert runner.score([LINE], []) == []
            assert runner.limit_s(2) >= 300
            assert set(runner.costs()) == {"judge"}


def test_terms_of_one_version_share_an_endpoint_and_terms_of_one_name_a_ledger() -> None:
    with EndpointServer(lambda _: completion("LEVEL: 5")) as server:
        same = resolve(RewardTerm("judge", 1.0, "audio", {"url": server.url, "model": "m"}))
        other = resolve(RewardTerm("judge", 1.0, "text", {"url": server.url, "model": "n"}))
        with EndpointRunner([same, same, other]) as runner:
            assert len(runner._endpoints) == 2
            runner.score([LINE], [Unit(0, 0), Unit(0, 1), Unit(0, 2)])
            assert runner.costs()["judge"].requests == 3


def test_a_term_that_asks_no_server_is_refused() -> None:
    with pytest.raises(RewardError, match="reward 'answer' asks no server"):
        EndpointRunner([resolve(RewardTerm("answer", 1.0, "any"))])


def test_an_installed_endpoint_that_can_not_be_made_is_an_error_at_the_start(
    install: Callable[[Scripted], EndpointRunner],
) -> None:
    @reward("installed", endpoint=True)
    def installed(secrets: Mapping[str, str]) -> Endpoint:
        raise OSError("no such model")

    before = threading.active_count()
    with pytest.raises(RewardError, match="can't be made: OSError: no such model"):
        EndpointRunner([resolve(RewardTerm("installed", 1.0, "any"))]).start()
    assert threading.active_count() == before


def test_the_secrets_of_a_term_are_known_before_it_starts() -> None:
    term = resolve(RewardTerm("judge", 1.0, "any", {"url": "https://example.com", "model": "m", "secret": "JUDGE_KEY"}))
    assert needed_secrets(term) == ("JUDGE_KEY",)
    assert needed_secrets(resolve(RewardTerm("answer", 1.0, "any"))) == ()

"""What becomes of running experiments when the service stops: they pause or lose their job, and are queued for the next start."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from orchestrator.embedded import EmbeddedServices
from orchestrator.service.drain import ask_to_pause, queue_again, settle_without_jobs, to_ask, wait_until_still
from orchestrator.service.messages import Bundle, Demand, Experiment, Priority, State, Wanted
from orchestrator.service.root_token import keep_root_token
from orchestrator.service.settings import ServiceSettings
from orchestrator.service.store import Store
from orchestrator.service.tokens import TokenError, TokenStore, new_token


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with EmbeddedServices(tmp_path_factory.mktemp("redis")) as services:
        yield services.redis()


@pytest.fixture
def store(redis_url: str, request: pytest.FixtureRequest) -> Iterator[Store]:
    store = Store.from_url(redis_url, f"{request.node.name}:")
    yield store
    store.close()


def running(store: Store, id: str) -> Experiment:
    """One that a job works on."""
    demand = Demand((Bundle(),))
    one = Experiment(id, id, "ann", State.QUEUED, Priority.NORMAL, (), demand, time.time(), f"/runs/{id}", "")
    store.submit(one, "run: {}\n")
    claimed = store.claim(id, "scheduler", 30.0)
    assert claimed is not None
    store.running(id, claimed.attempt)
    return store.get(id)


def test_one_that_pauses_in_time_is_queued_again(store: Store) -> None:
    one = running(store, "a-1")
    asked = to_ask(store)
    ask_to_pause(store, asked)
    assert store.report("a-1", one.attempt, kind="update", data={}) is Wanted.PAUSE
    store.finish("a-1", one.attempt, State.PAUSED)
    assert wait_until_still(store, 1.0)
    assert queue_again(store, asked) == ["a-1"]
    again = store.get("a-1")
    assert (again.state, again.queued_at) == (State.QUEUED, one.queued_at)


def test_one_that_does_not_pause_is_queued_when_its_job_is_gone_and_may_be_claimed(store: Store) -> None:
    running(store, "a-1")
    asked = to_ask(store)
    ask_to_pause(store, asked)
    begun = time.monotonic()
    assert not wait_until_still(store, 0.3)
    assert time.monotonic() - begun < 2.0
    settled = settle_without_jobs(store)
    assert queue_again(store, [*dict.fromkeys([*asked, *settled])]) == ["a-1"]
    again = store.get("a-1")
    assert (again.state, again.wanted) == (State.QUEUED, Wanted.NOTHING)
    assert store.claim("a-1", "another", 30.0).attempt == 2


def test_what_its_user_asked_for_holds(store: Store) -> None:
    for id in ("pause-1", "cancel-1"):
        running(store, id)
    store.ask("pause-1", Wanted.PAUSE, "ann")
    store.ask("cancel-1", Wanted.CANCEL, "ann")
    asked = to_ask(store)
    assert asked == []
    settled = settle_without_jobs(store)
    queue_again(store, asked)
    assert sorted(settled) == ["cancel-1", "pause-1"]
    assert store.get("pause-1").state is State.PAUSED
    assert store.get("cancel-1").state is State.CANCELLED


def test_without_jobs_known_to_be_gone_nothing_is_queued_and_the_request_is_taken_back(store: Store) -> None:
    running(store, "a-1")
    asked = to_ask(store)
    ask_to_pause(store, asked)
    assert queue_again(store, asked) == []
    one = store.get("a-1")
    assert (one.state, one.wanted) == (State.RUNNING, Wanted.NOTHING)


def test_one_that_ends_meanwhile_disturbs_nothing(store: Store) -> None:
    one = running(store, "a-1")
    asked = to_ask(store)
    store.finish("a-1", one.attempt, State.SUCCEEDED)
    ask_to_pause(store, [*asked, "never-was"])
    assert queue_again(store, [*asked, "never-was"]) == []
    assert store.get("a-1").state is State.SUCCEEDED


def test_root_token_opens_everything_and_keeping_it_again_changes_nothing(redis_url: str) -> None:
    settings = ServiceSettings(redis_url=redis_url, redis_prefix="root:")
    plain = new_token()
    for _ in range(2):
        keep_root_token(settings, plain)
    tokens = TokenStore.from_url(redis_url, "root:")
    user = tokens.check(plain)
    assert user.scopes == ("read", "submit", "admin")
    assert len(tokens.list()) == 1
    tokens.close()
    with pytest.raises(TokenError):
        keep_root_token(settings, "CHANGE-ME")

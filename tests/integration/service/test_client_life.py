"""The clients and the real API over a real Valkey: the whole life of an experiment, and what goes wrong on the way."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from client_desk import Desk
from cutting_proxy import CuttingProxy

from orchestrator import AsyncClient, Client
from orchestrator.errors import ConfigError
from orchestrator.service.async_client import AsyncRun
from orchestrator.service.client import Run
from orchestrator.service.client_errors import (
    AmbiguousReference,
    NotFound,
    NotPossible,
    NotSignedIn,
    RequestRefused,
    ServiceUnreachable,
    StillRunning,
)
from orchestrator.service.messages import State

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    desk = Desk(tmp_path_factory.mktemp("desk"))
    yield desk
    desk.close()


def test_an_experiment_lives_its_life(desk: Desk) -> None:
    run = desk.client.submit("demo", {"run.seed": 7}, priority="high", name="life", tags={"team": "audio"})
    desk.prepared(run)
    assert (run.state, run.experiment.priority, run.experiment.tags) == (State.QUEUED, "high", {"team": "audio"})
    assert run.config().flat["run.seed"] == "7"
    assert [found.id for found in desk.client.list(tag=("team", "audio"))] == [run.id]
    assert desk.client.find("life").id == desk.client.find("@last").id == desk.client.find(run.id[-6:]).id == run.id
    assert run.cancel().state is State.CANCELLED
    with pytest.raises(NotPossible):
        run.pause()
    resumed = run.resume({"actor.actor_optim.lr": 1e-4})
    assert (resumed.state, run.config().flat["actor.actor_optim.lr"]) == (State.QUEUED, "0.0001")
    clone = run.clone(["run.seed=8"], name="twin")
    assert (clone.experiment.cloned_from, clone.state) == (run.id, State.QUEUED)
    found = {row.key: (row.a, row.b) for row in desk.client.compare(run.id, clone.id).config}
    assert found["run.seed"] == ("7", "8")
    attempt = desk.room.start(run.id).attempt
    for number in (1, 2):
        desk.room.update(run.id, number, attempt=attempt)
    desk.room.log(run.id, "driver", "one\ntwo\nthree\n")
    assert [update.update for update in run.updates()] == [1, 2]
    assert list(run.logs(tail=2)) == ["two", "three"] and run.log_components() == ["driver"]
    desk.room.store.finish(run.id, attempt, State.SUCCEEDED)
    assert run.wait(20).state is State.SUCCEEDED
    kinds = [(event.kind, event.data.get("state")) for event in run.events()]
    assert kinds[0][0] == "submitted" and kinds[-1] == ("state", "succeeded")
    assert [event.id for event in run.events(follow=False)] == [event.id for event in run.events()]


def test_a_sweep_is_queued_as_a_whole(desk: Desk) -> None:
    made = desk.client.sweep("demo", grid={"run.seed": [1, 2], "actor.actor_optim.lr": [1e-5, 5e-5]}, name="grid")
    assert len(made.runs) == 4 and {run.experiment.parent for run in made.runs} == {made.parent}
    assert {run.id for run in desk.client.list(parent=made.parent)} == {run.id for run in made.runs}
    listed = desk.client.sweep("demo", points=[{"run.seed": 5}, ["run.seed=6"]])
    assert [run.config().flat["run.seed"] for run in listed.runs] == ["5", "6"]
    with pytest.raises(AmbiguousReference, match="write more of the id"):
        desk.client.find("grid")


def test_what_is_refused_says_why_and_what_to_do(desk: Desk) -> None:
    with pytest.raises(RequestRefused, match=r"actor\.actor_optim\.lr") as caught:
        desk.client.submit("demo", {"actor.optim.lr": 1e-6})
    assert caught.value.status == 422 and caught.value.field.startswith("overrides")
    with pytest.raises(NotFound, match="nobody-000000"):
        desk.client.get("nobody-000000")
    with pytest.raises(NotFound, match="mgrd ps --all"):
        desk.client.find("nobody-000000")
    with pytest.raises(ConfigError, match="low, normal, high"):
        desk.client.submit("demo", priority="urgent")
    with Client("http://127.0.0.1:9") as nobody, pytest.raises(ServiceUnreachable, match="mgrd doctor"):
        nobody.me()


def test_a_submit_whose_answer_is_lost_submits_once(desk: Desk) -> None:
    proxy = CuttingProxy(desk.api.port)
    with Client(proxy.url) as client:
        proxy.lose_replies = 2
        run = client.submit("demo", name="lost")
        proxy.lose_replies = 1
        with pytest.raises(ServiceUnreachable) as caught:
            run.cancel()  # may have been done: not asked again
        assert caught.value.sent
    proxy.close()
    assert [(run.id, run.state) for run in desk.client.list() if run.experiment.name == "lost"] == [
        (run.id, State.CANCELLED)
    ]


def test_events_come_once_and_in_order_over_a_connection_that_breaks_again_and_again(desk: Desk) -> None:
    run = desk.submit("broken")
    desk.room.finish(run.id, State.SUCCEEDED, updates=12)
    whole = [event.id for event in run.events()]
    proxy = CuttingProxy(desk.api.port)
    with Client(proxy.url) as client:
        there = client.get(run.id)
        proxy.cut_after = 4000
        found = [event.id for event in there.events()]
    proxy.close()
    assert found == whole and len(whole) >= 15
    assert proxy.cuts > 1


def test_a_watcher_sees_through_a_restart_of_the_api(desk: Desk) -> None:
    run = desk.submit("restart")
    attempt = desk.room.start(run.id).attempt
    seen: list[str] = []
    watching = threading.Event()

    def watch() -> None:
        for event in run.events():
            seen.append(f"{event.kind} {event.data.get('update', event.data.get('state', ''))}".strip())
            watching.set()

    desk.room.log(run.id, "driver", "before\n")
    lines: list[str] = []
    reading = threading.Event()

    def read() -> None:
        for line in run.logs(follow=True):
            lines.append(line)
            reading.set()

    threads = [threading.Thread(target=work) for work in (watch, read)]
    for thread in threads:
        thread.start()
    assert watching.wait(20) and reading.wait(20)
    desk.api.stop()
    desk.room.update(run.id, 1, attempt=attempt)
    desk.room.log(run.id, "driver", "meanwhile\n")
    desk.api.start()
    desk.room.update(run.id, 2, attempt=attempt)
    desk.room.log(run.id, "driver", "after\n")
    desk.room.store.finish(run.id, attempt, State.SUCCEEDED)
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert seen[-3:] == ["update 1", "update 2", "state succeeded"]
    assert lines == ["before", "meanwhile", "after"]


def test_wait_ends_at_its_limit_at_a_pause_and_at_the_end(desk: Desk) -> None:
    run = desk.submit("waited")
    began = time.monotonic()
    with pytest.raises(StillRunning, match="still queued"):
        run.wait(0.5)
    assert time.monotonic() - began < 10
    attempt = desk.room.start(run.id).attempt
    timer = threading.Timer(0.5, desk.room.store.finish, (run.id, attempt, State.PAUSED))
    timer.start()
    assert run.wait(30).state is State.PAUSED
    assert run.wait(0).state is State.PAUSED


def test_the_same_from_asyncio(desk: Desk) -> None:
    async def life() -> None:
        async with AsyncClient(desk.api.url) as client:
            run = await client.submit("demo", {"run.seed": 3}, name="async")
            assert (await client.find(run.id[-6:])).id == run.id
            (Path(run.experiment.run_dir) / "logs").mkdir(parents=True)
            desk.room.finish(run.id, State.FAILED, reason="no disk", updates=2)
            kinds = [event.kind async for event in run.events()]
            assert kinds.count("update") == 2 and (await run.wait(20)).state is State.FAILED
            assert len(await run.updates()) == 2 and [line async for line in run.logs()] == []
            with pytest.raises(RequestRefused):
                await run.resume(["run.sed=4"])
            assert (await run.resume()).state is State.QUEUED
            assert (await (await run.clone(name="asynctwin")).cancel()).state is State.CANCELLED
            assert [run.id async for run in aiter_list(await client.list(states=["cancelled"], limit=1))]

    asyncio.run(life())


async def aiter_list(runs: list[AsyncRun]):  # type: ignore[no-untyped-def]
    for run in runs:
        yield run


@pytest.mark.parametrize(("sync", "asynchronous"), [(Client, AsyncClient), (Run, AsyncRun)])
def test_both_clients_have_the_same_surface(sync: type, asynchronous: type) -> None:
    def surface(kind: type) -> dict[str, list[str]]:
        members = inspect.getmembers(kind, inspect.isfunction)
        return {name: list(inspect.signature(f).parameters) for name, f in members if not name.startswith("_")}

    assert surface(sync) == surface(asynchronous)


def test_user_code_is_sent_once(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "my_rewards.py").write_text("RATE = 1\n")
    first, second = (desk.client.submit("demo", name="coded", code=code) for code in (tmp_path, str(tmp_path)))
    assert first.experiment.code == second.experiment.code == desk.client.upload(tmp_path)
    kept = list(desk.api.home.code.glob("*.zip"))
    assert [path.stem for path in kept] == [first.experiment.code]
    with pytest.raises(RequestRefused, match="no code"):
        desk.client.submit("demo", code="0" * 64)


def test_tokens_open_and_close_the_service(desk: Desk) -> None:
    """Last: from the first token on every request needs one."""
    admin = desk.client.create_token("root", scope="admin")
    with pytest.raises(NotSignedIn, match="MGRD_TOKEN"):
        desk.client.me()
    with Client(desk.api.url, admin.secret) as client:
        assert client.me().scopes[-1] == "admin"
        reader = client.create_token("laptop", user="ben", scope="read", expires_s=3600)
        assert {token.id for token in client.tokens()} == {admin.token.id, reader.token.id}
        client.revoke_token(reader.token.id)
        deeds = [(line.deed, line.outcome) for line in client.audit(10)]
        assert ("revoke token", "done") in deeds
        with Client(desk.api.url, reader.secret) as closed, pytest.raises(NotSignedIn, match="revoked"):
            closed.me()

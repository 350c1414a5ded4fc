"""What may be asked of an experiment in each state, who may write to it, and that every change is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from store_room import StoreRoom, experiment, submitted

from orchestrator.service.messages import (
    Bundle,
    Cause,
    Demand,
    Experiment,
    PastRun,
    Progress,
    SampledTrajectory,
    State,
    Wanted,
)
from orchestrator.service.states import ACTIVE, ENDED, FOLLOWS, may_follow
from orchestrator.service.store import Store
from orchestrator.service.store_errors import Fenced, IdTaken, KeyReused, NoSuchExperiment, NotPossible

LEASE_S = 60.0
OVER_S = -1.0  # a lease that has run out when it begins


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreRoom]:
    room = StoreRoom(tmp_path_factory.mktemp("store"))
    yield room
    room.close()


@pytest.fixture
def store(room: StoreRoom) -> Iterator[Store]:
    store = room.fresh()
    yield store
    store.close()


def bring(store: Store, state: State, *, lease_s: float = LEASE_S) -> Experiment:
    """An experiment in `state`, by the shortest way."""
    one = submitted(store)
    if state is State.QUEUED:
        return one
    claimed = store.claim(one.id, "s1", lease_s)
    assert claimed is not None
    if state is State.STARTING:
        return claimed
    store.running(one.id, 1)
    return store.get(one.id) if state is State.RUNNING else store.finish(one.id, 1, state)


Deed = Callable[[Store, str], object]
NO = "refused"
DEEDS: dict[str, Deed] = {
    "claim": lambda store, id: store.claim(id, "s2", LEASE_S),
    "run": lambda store, id: store.running(id, 1),
    "retry": lambda store, id: store.settle(id, 1, State.QUEUED),
    "give up": lambda store, id: store.settle(id, 1, State.FAILED),
    "stop": lambda store, id: store.settle(id, 1, State.CANCELLED),
    "pause reached": lambda store, id: store.finish(id, 1, State.PAUSED),
    "succeed": lambda store, id: store.finish(id, 1, State.SUCCEEDED),
    "fail": lambda store, id: store.finish(id, 1, State.FAILED),
    "resume": lambda store, id: store.resume(id, "ann"),
    "cancel": lambda store, id: store.ask(id, Wanted.CANCEL, "ann"),
    "pause": lambda store, id: store.ask(id, Wanted.PAUSE, "ann"),
}
Q, S, R, P, OK, F, C = State
TABLE: dict[str, tuple[State | str, ...]] = {  # what follows each state of `State`; itself: nothing happens
    #                 Q   S   R   P   OK  F   C
    "claim": (S, NO, NO, NO, NO, NO, NO),
    "run": (NO, R, R, NO, NO, NO, NO),
    "retry": (NO, Q, Q, NO, NO, NO, NO),
    "give up": (NO, F, F, NO, NO, NO, NO),
    "stop": (NO, C, C, NO, NO, NO, NO),
    "pause reached": (NO, P, P, NO, NO, NO, NO),
    "succeed": (NO, OK, OK, NO, NO, NO, NO),
    "fail": (NO, F, F, NO, NO, NO, NO),
    "resume": (NO, NO, NO, Q, NO, Q, Q),
    "cancel": (C, S, R, C, NO, NO, C),
    "pause": (NO, S, R, P, NO, NO, NO),
}


@pytest.mark.parametrize("start", list(State))
@pytest.mark.parametrize("deed", list(DEEDS))
def test_each_deed_in_each_state_does_what_the_table_says_and_tells_it(store: Store, deed: str, start: State) -> None:
    one = bring(store, start)
    told = len(store.events(id=one.id))
    expected = TABLE[deed][list(State).index(start)]
    try:
        refused = DEEDS[deed](store, one.id) is None
    except (NotPossible, Fenced):
        refused = True
    after = store.get(one.id)
    events = store.events(id=one.id)[told:]
    assert refused == (expected == NO)
    assert after.state == (start if expected == NO else expected)
    if after.state is start:
        asked = deed in ("cancel", "pause") and start in ACTIVE
        assert [event.kind for event in events] == (["wanted"] if asked else [])
        assert asked or after == one
    else:
        assert may_follow(start, after.state)
        assert [(event.kind, event.data["before"], event.data["state"]) for event in events] == [
            ("state", start, after.state)
        ]
    assert store.counts() == {state: int(state is after.state) for state in State}
    assert store.list(states=[after.state]) == [after]
    assert store.queued() + store.active() == ([after] if after.state in {Q, S, R} else [])
    assert (after.ended_at > 0) == (after.state in ENDED)
    assert (after.owner != "" and after.lease_until > 0) == (after.state in ACTIVE)


def test_the_table_makes_every_transition_that_states_allow_but_refusing_what_waits() -> None:
    made = {(before, after) for row in TABLE.values() for before, after in zip(State, row, strict=True) if after != NO}
    allowed = {(before, after) for before in State for after in FOLLOWS[before]}
    assert {(before, after) for before, after in made if before is not after} == allowed - {(Q, F)}


def test_an_experiment_is_read_back_as_it_was_submitted(store: Store) -> None:
    whole = experiment(
        3, tags={'a"b': "ü:x"}, parent="sweep-1", code="c0de", submitted_at=12.5, demand=Demand((Bundle(0.5), Bundle()))
    )
    held, new = store.submit(whole, "a: 1\n")
    assert new and held.queued_at > 1e9 and store.config(held.config_sha256) == "a: 1\n"
    assert store.get(whole.id) == held
    for name in ("id", "tags", "parent", "code", "demand", "overrides", "submitted_at", "priority", "progress"):
        assert getattr(held, name) == getattr(whole, name)


def test_an_id_is_given_once_and_what_could_not_be_read_back_is_not_kept(store: Store) -> None:
    submitted(store)
    with pytest.raises(IdTaken, match="demo-000000"):
        submitted(store)
    with pytest.raises(ValueError, match="can't be kept"):
        submitted(store, 1, submitted_at=float("nan"))
    with pytest.raises(ValueError, match="can't be an id"):
        submitted(store, 1, id="a b")
    assert [one.id for one in store.list()] == ["demo-000000"]


def test_a_key_gives_the_same_experiment_again_and_refuses_another_body(store: Store) -> None:
    first, new = store.submit(experiment(1), "", key="k", body_sha256="one")
    again, also_new = store.submit(experiment(2), "", key="k", body_sha256="one")
    assert (new, also_new, again) == (True, False, first)
    with pytest.raises(KeyReused, match=first.id):
        store.submit(experiment(3), "", key="k", body_sha256="two")
    other, other_new = store.submit(experiment(4, user="bob"), "", key="k", body_sha256="two")
    assert other_new and other.id != first.id
    keys = list(store.link.client.scan_iter(store.link.key("idem", "*")))
    assert len(keys) == 2 and all(23 * 3600 < store.link.client.ttl(key) <= 24 * 3600 for key in keys)


def test_a_scheduler_whose_lease_was_taken_over_changes_nothing_more(store: Store) -> None:
    one = bring(store, State.RUNNING, lease_s=OVER_S)
    adopted = store.adopt(one.id, "s2", LEASE_S)
    assert adopted is not None and (adopted.owner, adopted.lease, adopted.attempt) == ("s2", 2, 1)
    assert store.adopt(one.id, "s3", LEASE_S) is None
    assert not store.heartbeat(one.id, 1, LEASE_S)
    assert store.settle(one.id, 1, State.FAILED) is None
    assert store.get(one.id) == adopted
    assert store.heartbeats({one.id: 2, "demo-ffffff": 1}, 2 * LEASE_S) == {"demo-ffffff"}
    assert store.get(one.id).lease_until > adopted.lease_until
    assert store.report(one.id, 1, kind="note", data={}) is Wanted.NOTHING  # the job itself goes on


def test_an_old_attempt_reports_nothing_more(store: Store) -> None:
    one = bring(store, State.RUNNING)
    store.settle(one.id, 1, State.QUEUED, reason="node lost", cause=Cause.INFRASTRUCTURE, retry_of="infrastructure")
    second = store.claim(one.id, "s1", LEASE_S, job=f"{one.id}-2")
    assert second is not None and (second.attempt, second.lease, second.job) == (2, 2, f"{one.id}-2")
    assert second.retries == {"infrastructure": 1} and second.reason == ""
    before = store.events(id=one.id)
    for late in (
        lambda: store.report(one.id, 1, kind="note", data={}),
        lambda: store.running(one.id, 1),
        lambda: store.finish(one.id, 1, State.SUCCEEDED),
        lambda: store.keep_samples(one.id, 1, [sample(1)]),
    ):
        with pytest.raises(Fenced, match="attempt 1"):
            late()
    assert store.events(id=one.id) == before and store.samples(one.id) == [] and store.get(one.id) == second


def test_a_claim_waits_for_the_back_off_and_refuses_a_job_of_another_attempt(store: Store) -> None:
    one = bring(store, State.STARTING)
    store.settle(one.id, 1, State.QUEUED, not_before=time.time() + 3600)
    assert store.claim(one.id, "s1", LEASE_S) is None
    store.ask(one.id, Wanted.CANCEL, "ann")
    assert store.resume(one.id, "ann").not_before == 0
    assert store.claim(one.id, "s1", LEASE_S, job=f"{one.id}-1") is None  # meant for the first attempt
    assert store.claim(one.id, "s1", LEASE_S, job=f"{one.id}-2") is not None


@pytest.mark.parametrize("ending", [State.QUEUED, State.FAILED, State.PAUSED])
def test_a_cancel_is_not_lost_when_the_attempt_ends_first(store: Store, ending: State) -> None:
    one = bring(store, State.RUNNING)
    store.ask(one.id, Wanted.PAUSE, "ann")
    assert store.ask(one.id, Wanted.CANCEL, "ann").wanted is Wanted.CANCEL
    with pytest.raises(NotPossible, match="being cancelled"):
        store.ask(one.id, Wanted.PAUSE, "ann")
    ended = store.settle(one.id, 1, ending)
    assert ended is not None and (ended.state, ended.wanted) == (State.CANCELLED, Wanted.NOTHING)


def test_a_pause_is_not_lost_when_the_job_vanishes_and_can_be_taken_back(store: Store) -> None:
    one = bring(store, State.RUNNING)
    store.ask(one.id, Wanted.PAUSE, "ann")
    assert store.report(one.id, 1, kind="note", data={}) is Wanted.PAUSE
    assert store.ask(one.id, Wanted.NOTHING, "ann").wanted is Wanted.NOTHING
    store.ask(one.id, Wanted.PAUSE, "ann")
    ended = store.settle(one.id, 1, State.QUEUED)
    assert ended is not None and ended.state is State.PAUSED


def test_a_failure_of_infrastructure_and_a_stop_of_the_service_keep_the_place_in_the_queue(store: Store) -> None:
    one = bring(store, State.RUNNING)
    later = submitted(store, 1)
    first = store.get(one.id).first_started_at
    retried = store.settle(one.id, 1, State.QUEUED, cause=Cause.INFRASTRUCTURE, retry_of="infrastructure@0")
    assert retried is not None and retried.queued_at == one.queued_at
    assert [waiting.id for waiting in store.queued()] == [one.id, later.id]
    claimed = store.claim(one.id, "s1", LEASE_S)
    assert claimed is not None and claimed.first_started_at == first < claimed.started_at
    store.finish(one.id, 2, State.PAUSED)
    drained = store.resume(one.id, "the service", keeps_place=True)
    assert (drained.queued_at, drained.first_started_at) == (one.queued_at, first)


def test_what_its_user_resumes_is_queued_anew(store: Store) -> None:
    one = bring(store, State.PAUSED)
    first = one.first_started_at
    later = submitted(store, 1)
    assert store.resume(one.id, "ann").queued_at > later.queued_at
    again = store.claim(one.id, "s1", LEASE_S)
    assert again is not None and again.first_started_at == again.started_at > first


def test_an_ended_run_is_remembered_as_a_turn_of_its_user_and_what_never_started_is_not(store: Store) -> None:
    begun = time.time() - 1
    one, waiting, going = submitted(store), submitted(store, 1), submitted(store, 2)
    for started in (one, going):
        store.claim(started.id, "s1", LEASE_S)
    ended = store.settle(one.id, 1, State.FAILED)
    store.ask(waiting.id, Wanted.CANCEL, "ann")
    assert ended is not None
    assert store.past_runs(begun) == [PastRun(one.id, "ann", one.queued_at, ended.first_started_at)]
    assert store.past_runs(time.time() + 60) == []
    resumed = store.resume(one.id, "ann")
    store.ask(one.id, Wanted.CANCEL, "ann")
    assert len(store.past_runs(begun)) == 1 and resumed.queued_at > ended.first_started_at
    old = store.link.key("past")
    store.link.client.zadd(old, {'{"id":"old"}': begun - 24 * 3600})
    store.finish(going.id, 1, State.SUCCEEDED)
    assert [run.id for run in store.past_runs(0)] == [one.id, going.id]


def test_resuming_appends_overrides_and_replaces_configuration_and_demand(store: Store) -> None:
    one = bring(store, State.FAILED)
    demand = Demand((Bundle(gpus=8),))
    resumed = store.resume(one.id, "ann", overrides=["a=1", "b=[2]"], config_yaml="new: 1\n", demand=demand)
    assert resumed.overrides == (*one.overrides, "a=1", "b=[2]") and resumed.demand == demand
    assert store.config(resumed.config_sha256) == "new: 1\n" and store.config(one.config_sha256) == "seed: 0\n"
    assert (resumed.attempt, resumed.ended_at, resumed.reason) == (1, 0, "")
    with pytest.raises(NotPossible, match="is queued already"):
        store.resume(one.id, "ann")


def test_progress_links_and_samples_of_a_run_are_kept(store: Store) -> None:
    one = bring(store, State.RUNNING)
    progress = Progress(stage="rl", update=3, updates_total=9, reward=0.5, at=1.0)
    store.report(
        one.id, 1, kind="update", data={"reward": 0.5}, progress=progress, mlflow_run="m1", mlflow_url="http://m"
    )
    store.keep_samples(one.id, 1, [sample(number) for number in range(40)])
    store.keep_samples(one.id, 1, [sample(number) for number in range(40, 60)])
    held = store.get(one.id)
    assert (held.progress, held.mlflow_run, held.mlflow_url) == (progress, "m1", "http://m")
    assert store.samples(one.id) == [sample(number) for number in reversed(range(12, 60))]


def test_refusals_say_what_can_be_done(store: Store) -> None:
    with pytest.raises(NoSuchExperiment, match="near ones: demo-000000"):
        bring(store, State.SUCCEEDED)
        store.get("demo-00000")
    with pytest.raises(NotPossible, match=r"demo-000000 is succeeded.*clone it"):
        store.ask("demo-000000", Wanted.CANCEL, "ann")
    with pytest.raises(NotPossible, match="nothing left to do: clone it"):
        store.resume("demo-000000", "ann")
    for missing in (
        lambda: store.ask("nothing", Wanted.CANCEL, "ann"),
        lambda: store.claim("nothing", "s1", LEASE_S),
        lambda: store.report("nothing", 1, kind="note", data={}),
    ):
        with pytest.raises(NoSuchExperiment, match="mgrd ps"):
            missing()


def sample(number: int) -> SampledTrajectory:
    return SampledTrajectory(
        id=f"t{number}",
        update=number,
        stage="rl",
        question="q?",
        choices=("a", "b"),
        answer="a",
        reasoning="because",
        reply="<think>…</think>a",
        correct=True,
        score=None if number % 2 else 0.5,
        reason="",
        components={"accuracy": 1.0},
        clips=(("sha", "/clip.wav"),),
    )

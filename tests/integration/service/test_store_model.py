"""Whatever users, schedulers and jobs do in whatever order, the store holds what a small model of it holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from store_room import StoreRoom, submitted

from orchestrator.service.messages import State, Wanted
from orchestrator.service.states import ACTIVE, RESUMABLE, may_follow
from orchestrator.service.store import Store
from orchestrator.service.store_errors import Fenced, NoSuchExperiment, NotPossible

NUMBERS = st.integers(0, 2)
AGE = st.sampled_from([0, 0, 0, 1])  # how many leases or attempts ago a writer got its own
LEASE = st.sampled_from([60.0, -1.0])  # the second has run out when it begins


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreRoom]:
    room = StoreRoom(tmp_path_factory.mktemp("store"))
    yield room
    room.close()


@dataclass
class Row:
    state: State = State.QUEUED
    wanted: Wanted = Wanted.NOTHING
    attempt: int = 0
    lease: int = 0
    held: bool = False  # the lease has not run out
    retries: int = 0
    moves: list[State] = field(default_factory=lambda: [State.QUEUED])

    def move(self, state: State) -> None:
        if self.state is not state:
            self.state = state
            self.moves.append(state)

    def end(self, state: State) -> None:
        if self.wanted is Wanted.CANCEL and state is not State.SUCCEEDED:
            state = State.CANCELLED
        elif self.wanted is Wanted.PAUSE and state is State.QUEUED:
            state = State.PAUSED
        self.wanted = Wanted.NOTHING
        self.move(state)


class Life(RuleBasedStateMachine):
    room: StoreRoom

    def __init__(self) -> None:
        super().__init__()
        self.store: Store = self.room.fresh()
        self.other = Store.from_url(self.room.url, self.store.link.base.strip("{}:") + ":")
        self.rows: dict[str, Row] = {}

    def teardown(self) -> None:
        for id, row in self.rows.items():
            told = [event for event in self.store.events(id=id) if event.kind in ("submitted", "state")]
            assert [event.data["state"] for event in told] == row.moves
            assert all(may_follow(a, b) for a, b in zip(row.moves, row.moves[1:], strict=False))
        parts = [self.store.events(id=id) for id in self.rows]
        assert sorted((event for part in parts for event in part), key=_place) == self.store.events()
        self.store.close()
        self.other.close()

    @rule(number=NUMBERS)
    def submit(self, number: int) -> None:
        id = f"demo-{number:06x}"
        if id not in self.rows:
            submitted(self.store, number)
            self.rows[id] = Row()

    @rule(number=NUMBERS, lease_s=LEASE)
    def claim(self, number: int, lease_s: float) -> None:
        id, row = self._row(number)
        claimed = self._tried(lambda: self.store.claim(id, "s", lease_s))
        assert (claimed is not None) == (row is not None and row.state is State.QUEUED)
        if claimed and row:
            row.move(State.STARTING)
            row.attempt, row.lease, row.held = row.attempt + 1, row.lease + 1, lease_s > 0

    @rule(number=NUMBERS, lease_s=LEASE)
    def adopt(self, number: int, lease_s: float) -> None:
        id, row = self._row(number)
        adopted = self._tried(lambda: self.store.adopt(id, "t", lease_s))
        assert (adopted is not None) == (row is not None and row.state in ACTIVE and not row.held)
        if adopted and row:
            row.lease, row.held = row.lease + 1, lease_s > 0

    @rule(number=NUMBERS, age=AGE, lease_s=LEASE)
    def heartbeat(self, number: int, age: int, lease_s: float) -> None:
        id, row = self._row(number)
        lease = row.lease - age if row else 1
        kept = self.store.heartbeat(id, lease, lease_s)
        assert kept == (row is not None and row.state in ACTIVE and age == 0)
        if kept and row:
            row.held = lease_s > 0

    @rule(number=NUMBERS, age=AGE, state=st.sampled_from(sorted(set(State) - ACTIVE)))
    def settle(self, number: int, age: int, state: State) -> None:
        id, row = self._row(number)
        lease = row.lease - age if row else 1
        settled = self._tried(lambda: self.store.settle(id, lease, state, retry_of="infrastructure"))
        assert (settled is not None) == (row is not None and row.state in ACTIVE and age == 0)
        if settled and row:
            row.end(state)
            row.retries += row.state is State.QUEUED

    @rule(number=NUMBERS, age=AGE)
    def running(self, number: int, age: int) -> None:
        id, row = self._row(number)
        attempt = row.attempt - age if row else 1
        wanted = self._tried(lambda: self.store.running(id, attempt))
        assert wanted == (row.wanted if row and row.state in ACTIVE and age == 0 else None)
        if wanted is not None and row:
            row.move(State.RUNNING)

    @rule(number=NUMBERS, age=AGE)
    def report(self, number: int, age: int) -> None:
        id, row = self._row(number)
        attempt = row.attempt - age if row else 1
        wanted = self._tried(lambda: self.store.report(id, attempt, kind="note", data={}))
        assert wanted == (row.wanted if row and row.state in ACTIVE and age == 0 else None)

    @rule(number=NUMBERS, age=AGE, state=st.sampled_from(sorted(set(State) - ACTIVE - {State.QUEUED})))
    def finish(self, number: int, age: int, state: State) -> None:
        id, row = self._row(number)
        attempt = row.attempt - age if row else 1
        finished = self._tried(lambda: self.store.finish(id, attempt, state))
        assert (finished is not None) == (row is not None and row.state in ACTIVE and age == 0)
        if finished and row:
            row.end(state)

    @rule(number=NUMBERS, wanted=st.sampled_from(Wanted))
    def ask(self, number: int, wanted: Wanted) -> None:
        id, row = self._row(number)
        asked = self._tried(lambda: self.store.ask(id, wanted, "ann"))
        if row is None:
            assert asked is None
        elif row.state in ACTIVE:
            assert (asked is not None) == (row.wanted is not Wanted.CANCEL or wanted is Wanted.CANCEL)
            row.wanted = wanted if asked else row.wanted
        elif wanted is Wanted.CANCEL and row.state in (State.QUEUED, State.PAUSED, State.CANCELLED):
            assert asked is not None
            row.move(State.CANCELLED)
        else:
            assert (asked is not None) == (wanted is Wanted.PAUSE and row.state is State.PAUSED)

    @rule(number=NUMBERS)
    def resume(self, number: int) -> None:
        id, row = self._row(number)
        resumed = self._tried(lambda: self.store.resume(id, "ann"))
        assert (resumed is not None) == (row is not None and row.state in RESUMABLE)
        if resumed and row:
            row.move(State.QUEUED)
            row.retries = 0

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        held = {one.id: one for one in self.store.list()}
        assert set(held) == set(self.rows)
        for id, row in self.rows.items():
            one = held[id]
            assert (one.state, one.wanted, one.attempt, one.lease) == (row.state, row.wanted, row.attempt, row.lease)
            assert one.retries.get("infrastructure", 0) == row.retries
        assert {one.id: one for one in self.other.queued() + self.other.active()} == {
            id: one for id, one in held.items() if one.state in ACTIVE | {State.QUEUED}
        }

    def _row(self, number: int) -> tuple[str, Row | None]:
        id = f"demo-{number:06x}"
        return id, self.rows.get(id)

    def _tried(self, deed: Any) -> Any:
        try:
            return deed()
        except (NotPossible, Fenced, NoSuchExperiment):
            return None


def _place(event: Any) -> tuple[int, ...]:
    return tuple(int(part) for part in event.id.split("-"))


def test_any_order_of_deeds_leaves_what_the_model_says(room: StoreRoom) -> None:
    class InThisRoom(Life):
        pass

    InThisRoom.room = room
    run_state_machine_as_test(
        InThisRoom,
        settings=settings(
            max_examples=30,
            stateful_step_count=20,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )

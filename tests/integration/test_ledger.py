"""The ledger on a real server: exactly once under retries, duplicates, restarts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis_room import RedisRoom

from rewards import Verdict
from rollout import Ledger, LedgerError
from rollout.messages import FinishReason, Trajectory


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisRoom]:
    running = RedisRoom(tmp_path_factory.mktemp("valkey"))
    yield running
    running.kill()


runs = count()


@pytest.fixture
def new_ledger(server: RedisRoom) -> Callable[[], Ledger[Verdict]]:
    run_id = f"run-{next(runs)}"
    return lambda: Ledger(server.url, run_id, verdict_type=Verdict, reconnect_s=20.0)


def trajectory(number: int, text: str = "<think>\nI hear a dog.\n</think>\ndog — ✓", tokens: int = 3) -> Trajectory:
    question, sample = divmod(number, 4)
    return Trajectory(
        id=f"reinforce/0/q{question:03d}/{sample}",
        question_id=f"q{question:03d}",
        sample=sample,
        prompt_ids=(1, 2, 3),
        response_ids=tuple(range(tokens)),
        logprobs=tuple(-0.1234567890123 / (i + 1) for i in range(tokens)),
        versions=(7,) * tokens,
        feature_keys=("k1", "k2"),
        finish_reason=FinishReason.STOP,
        text=text,
    )


def test_a_round_comes_back_whole_and_by_id(new_ledger: Callable[[], Ledger[Verdict]]) -> None:
    ledger, sent = new_ledger(), [trajectory(i) for i in (5, 0, 3, 1)]
    assert [ledger.append(2, t) for t in sent] == [True] * 4
    assert ledger.round(2) == [(t, None) for t in sorted(sent, key=lambda t: t.id)]
    assert ledger.round(1) == []


def test_an_id_is_kept_once_and_as_it_was_first(new_ledger: Callable[[], Ledger[Verdict]]) -> None:
    ledger = new_ledger()
    assert ledger.append(0, trajectory(1, "first"))
    assert not ledger.append(0, trajectory(1, "second"))
    assert not ledger.append(5, trajectory(1, "third"))
    assert ledger.append_all(0, [trajectory(1), trajectory(2), trajectory(2)]) == 1
    assert [t.text for t, _ in ledger.round(0)] == ["first", trajectory(2).text]
    assert ledger.round(5) == []


def test_verdicts_stand_beside_their_trajectories(new_ledger: Callable[[], Ledger[Verdict]]) -> None:
    ledger = new_ledger()
    ledger.append_all(0, [trajectory(i) for i in range(4)])
    good = Verdict(valid=True, score=0.1 + 0.2, components={"answer": 1.0, "think_present": 0.0})
    ledger.put_verdict(trajectory(2).id, Verdict.invalid("answer timed out"))
    ledger.put_verdicts({trajectory(2).id: good, trajectory(3).id: Verdict.invalid("answer raised ValueError: ü")})
    assert [verdict for _, verdict in ledger.round(0)] == [
        None,
        None,
        good,
        Verdict.invalid("answer raised ValueError: ü"),
    ]


def test_a_verdict_for_an_unknown_trajectory_is_refused_and_stores_nothing(
    new_ledger: Callable[[], Ledger[Verdict]],
) -> None:
    ledger = new_ledger()
    ledger.append(0, trajectory(0))
    verdict = Verdict(valid=True, score=1.0)
    with pytest.raises(LedgerError, match="nowhere"):
        ledger.put_verdicts({trajectory(0).id: verdict, "nowhere": verdict})
    assert ledger.round(0) == [(trajectory(0), None)]


def test_verdicts_can_not_be_read_without_their_type(
    server: RedisRoom, new_ledger: Callable[[], Ledger[Verdict]]
) -> None:
    ledger = new_ledger()
    ledger.append(0, trajectory(0))
    worker: Ledger = Ledger(server.url, ledger.run_id)
    assert worker.append(0, trajectory(1)) and len(worker.round(0)) == 2
    ledger.put_verdict(trajectory(0).id, Verdict(valid=True, score=1.0))
    with pytest.raises(LedgerError, match="verdict_type=Verdict"):
        worker.round(0)


def test_an_acknowledged_round_is_gone_and_never_comes_back(
    server: RedisRoom, new_ledger: Callable[[], Ledger[Verdict]]
) -> None:
    ledger = new_ledger()
    assert ledger.frontier() == -1
    for number in range(3):
        ledger.append(number, trajectory(number))
        ledger.put_verdict(trajectory(number).id, Verdict(valid=True, score=1.0))
    ledger.acknowledge(1)
    assert ledger.frontier() == 1
    assert [len(ledger.round(number)) for number in range(3)] == [0, 0, 1]
    assert not ledger.append(1, trajectory(50)) and ledger.round(1) == []
    ledger.acknowledge(0)
    ledger.acknowledge(1)
    assert ledger.frontier() == 1
    ledger.acknowledge(7)
    assert ledger.frontier() == 7
    left = redis.Redis(port=server.port, decode_responses=True).keys(f"mgrd:{{{ledger.run_id}}}:*")
    assert left == [f"mgrd:{{{ledger.run_id}}}:ledger:frontier"]


def test_later_rounds_can_be_discarded_and_written_again(new_ledger: Callable[[], Ledger[Verdict]]) -> None:
    ledger = new_ledger()
    for number in range(1, 5):
        ledger.append(number, trajectory(number, "before"))
    assert ledger.discard_after(2) == 2
    assert [len(ledger.round(number)) for number in range(1, 5)] == [1, 1, 0, 0]
    assert ledger.append(3, trajectory(3, "after"))
    assert [t.text for t, _ in ledger.round(3)] == ["after"]


def test_runs_do_not_see_each_other(server: RedisRoom) -> None:
    one, other = (Ledger(server.url, name, verdict_type=Verdict) for name in ("one", "other"))
    one.append(0, trajectory(0))
    other.acknowledge(3)
    assert one.frontier() == -1 and len(one.round(0)) == 1 and other.round(0) == []


operations = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 3), st.lists(st.integers(0, 9), min_size=1, max_size=5)),
        st.tuples(st.just("verdict"), st.integers(0, 9), st.floats(-1, 1)),
        st.tuples(st.just("acknowledge"), st.integers(-1, 3), st.none()),
        st.tuples(st.just("discard"), st.integers(-1, 3), st.none()),
        st.tuples(st.just("rewind"), st.integers(-1, 3), st.none()),
    ),
    max_size=14,
)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(operations, st.integers(1, 3))
def test_any_sequence_of_repeated_calls_agrees_with_the_plain_rules(
    server: RedisRoom, steps: list, repeats: int
) -> None:
    """Against a dictionary; every call is made `repeats` times, as a client that lost the answer would."""
    ledger = Ledger(server.url, f"property-{next(runs)}", verdict_type=Verdict)
    home: dict[int, int] = {}
    verdicts: dict[int, Verdict] = {}
    frontier = -1
    for step, first, second in steps:
        for _ in range(repeats):
            if step == "append":
                ledger.append_all(first, [trajectory(i) for i in second])
            elif step == "verdict" and first in home:
                ledger.put_verdict(trajectory(first).id, Verdict(valid=True, score=second))
            elif step == "acknowledge":
                ledger.acknowledge(first)
            elif step == "discard":
                ledger.discard_after(first)
            elif step == "rewind":
                ledger.rewind(first)
        if step == "append" and first > frontier:
            home |= {i: first for i in second if i not in home}
        elif step == "verdict" and first in home:
            verdicts[first] = Verdict(valid=True, score=second)
        elif step == "acknowledge":
            frontier = max(frontier, first)
            home = {i: number for i, number in home.items() if number > first}
        elif step in ("discard", "rewind"):
            home = {i: number for i, number in home.items() if number <= first}
            frontier = min(frontier, first) if step == "rewind" else frontier
        verdicts = {i: verdict for i, verdict in verdicts.items() if i in home}
    assert ledger.frontier() == frontier
    for number in range(4):
        expected = sorted((i for i, place in home.items() if place == number), key=lambda i: trajectory(i).id)
        assert ledger.round(number) == [(trajectory(i), verdicts.get(i)) for i in expected]


def test_many_workers_that_append_the_same_keep_each_once(new_ledger: Callable[[], Ledger[Verdict]]) -> None:
    wanted = [trajectory(i) for i in range(120)]

    def work(seed: int) -> int:
        ledger, turned = new_ledger(), wanted[seed * 15 :] + wanted[: seed * 15]
        return sum(ledger.append(0, t) for t in turned)

    with ThreadPoolExecutor(6) as threads:
        new = list(threads.map(work, range(6)))
    assert sum(new) == len(wanted)
    assert [t for t, _ in new_ledger().round(0)] == sorted(wanted, key=lambda t: t.id)


@pytest.mark.chaos
def test_a_server_killed_in_mid_run_loses_nothing_that_was_acknowledged_to_the_caller(tmp_path: Path) -> None:
    server = RedisRoom(tmp_path)
    try:
        ledger = Ledger(server.url, "killed", verdict_type=Verdict, reconnect_s=30.0)
        done: list[int] = []
        third, two_thirds = threading.Event(), threading.Event()

        def work() -> None:
            for i in range(900):
                ledger.append(i // 300, trajectory(i))
                ledger.put_verdict(trajectory(i).id, Verdict(valid=True, score=float(i)))
                done.append(i)
                {300: third, 600: two_thirds}.get(i, threading.Event()).set()

        worker = threading.Thread(target=work)
        worker.start()
        for moment in (third, two_thirds):
            assert moment.wait(60)
            server.kill()
            confirmed = len(done)
            server.start()
            kept = {t.id: v for number in range(3) for t, v in ledger.round(number)}
            assert all(kept[trajectory(i).id] == Verdict(valid=True, score=float(i)) for i in range(confirmed))
        worker.join(60)
        assert not worker.is_alive() and done == list(range(900))
        assert [len(ledger.round(number)) for number in range(3)] == [300, 300, 300]
        ledger.acknowledge(1)
        server.kill()
        server.start()
        assert ledger.frontier() == 1 and len(ledger.round(2)) == 300
    finally:
        server.kill()


def test_a_password_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    server = RedisRoom(tmp_path)
    try:
        redis.Redis(port=server.port).config_set("requirepass", "right")
        began = time.monotonic()
        with pytest.raises(LedgerError, match="refuses the ledger"):
            Ledger(f"redis://:wrong@127.0.0.1:{server.port}/0", "run").frontier()
        assert time.monotonic() - began < 5
    finally:
        server.kill()

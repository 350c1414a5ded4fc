"""Who starts, who waits, and what the waiting are told."""

from __future__ import annotations

from dataclasses import replace

import pytest
from queue_room import HOUR, NOW, Cluster, Waiting, gang, machines

from orchestrator.service.messages import Bundle, Demand, Experiment, Priority, Quota, State
from orchestrator.service.policy import Decision, PolicySettings, Why, decide, held_nodes
from orchestrator.service.user_quotas import beyond_quota

LOW, NORMAL, HIGH = Priority.LOW, Priority.NORMAL, Priority.HIGH
ONE = PolicySettings(reserve_after_s=1800.0, reservations=1)


def started(decisions: list[Decision]) -> list[str]:
    return [d.id for d in decisions if d.start]


def order(waiting: list[Waiting], *, now: float = NOW) -> list[str]:
    """The order of the queue when nothing is free."""
    return [d.id for d in decide(waiting, [], machines(4, free=0), PolicySettings(), now)]


def reasons(decisions: list[Decision]) -> dict[str, str]:
    return {d.id: d.reason for d in decisions}


def test_higher_priorities_go_first_then_who_was_queued_first_then_the_id() -> None:
    waiting = [
        Waiting("d", priority=LOW, queued_at=NOW - 9),
        Waiting("c", queued_at=NOW - 5),
        Waiting("b", queued_at=NOW - 5),
        Waiting("a", priority=HIGH),
        Waiting("e", queued_at=NOW - 7),
    ]
    assert order(waiting) == ["a", "e", "b", "c", "d"]


def test_a_low_one_that_has_waited_two_steps_goes_before_a_fresh_high_one() -> None:
    step = PolicySettings().age_step_s
    low, high = Waiting("low", priority=LOW, queued_at=NOW), Waiting("high", user="bob", priority=HIGH)
    at = NOW + 2 * step
    assert order([low, replace(high, queued_at=at)], now=at) == ["low", "high"]
    assert order([low, replace(high, queued_at=at - 1)], now=at - 1) == ["high", "low"]


def test_within_a_priority_the_user_who_holds_least_goes_first() -> None:
    running = [Waiting("r", user="ann", demand=gang(2), queued_at=NOW - 9)]
    waiting = [
        Waiting("a", user="ann", queued_at=NOW - 5),
        Waiting("b", user="bob"),
        Waiting("c", user="ann", priority=HIGH),
    ]
    nodes = machines(4, free=0)
    assert [d.id for d in decide(waiting, running, nodes, PolicySettings(), NOW)] == ["c", "b", "a"]
    by_time = PolicySettings(fair_share=False)
    assert [d.id for d in decide(waiting, running, nodes, by_time, NOW)] == ["c", "a", "b"]


def test_two_users_queues_are_taken_in_turns_by_what_they_ask_for() -> None:
    ann = [Waiting(f"a{i}", demand=gang(2), queued_at=NOW - 50 + i) for i in range(3)]
    bob = [Waiting(f"b{i}", user="bob", demand=gang(1), queued_at=NOW - 9 + i) for i in range(4)]
    assert order([*ann, *bob]) == ["a0", "b0", "b1", "a1", "b2", "b3", "a2"]


def test_a_sweep_that_keeps_starting_does_not_grow_old_together_and_pass_another_user() -> None:
    old = NOW - 100 * HOUR
    sweep = [Waiting(f"s{i}", queued_at=old) for i in range(3)]
    running = [Waiting("s", queued_at=old, first_started_at=NOW - HOUR, demand=gang(2))]
    bob = Waiting("b", user="bob")
    nodes = machines(4, free=0)
    assert decide([*sweep, bob], running, nodes, PolicySettings(), NOW)[0].id == "b"
    lately = decide([*sweep, bob], [], nodes, PolicySettings(), NOW, ended=running)
    assert [d.id for d in lately] == ["s0", "b", "s1", "s2"]  # nobody holds anything: in turns
    assert decide([*sweep, bob], [], nodes, PolicySettings(), NOW)[-1].id == "b"


def test_another_try_of_a_run_begins_nobodys_turn_anew() -> None:
    tried = Experiment(
        *("tried", "tried", "ann", State.RUNNING, Priority.NORMAL, (), gang(1), 0.0, "", ""),
        queued_at=NOW - 30 * HOUR,
        first_started_at=NOW - 29 * HOUR,
        started_at=NOW - 60,
    )
    old = Waiting("old", queued_at=NOW - 28 * HOUR)
    fresh = Waiting("new", user="bob", priority=HIGH)
    assert decide([old, fresh], [tried], machines(2, free=0), PolicySettings(), NOW)[0].id == "old"


def test_later_runs_of_its_user_do_not_take_an_old_ones_turn() -> None:
    old = Waiting("old", priority=LOW, queued_at=NOW - 100 * HOUR)
    running = [Waiting("r", queued_at=NOW - 2 * HOUR, first_started_at=NOW - HOUR)]
    fresh = Waiting("new", user="bob", priority=HIGH)
    assert decide([old, fresh], running, machines(2, free=0), PolicySettings(), NOW)[0].id == "old"


def test_what_fits_starts_beside_a_larger_one_that_waits() -> None:
    waiting = [Waiting("big", demand=gang(2), queued_at=NOW - 60), Waiting("small", demand=gang(1, 4))]
    decisions = decide(waiting, [], machines(1), PolicySettings(), NOW)
    assert [d.id for d in decisions] == ["big", "small"]
    assert reasons(decisions)["big"].startswith(
        "can't start on this cluster as it is: asks for 16 GPUs in bundles of 8"
    )
    assert decisions[1] == Decision("small", Why.START, "starts on m0", ("m0",), 0)


def test_a_gang_starts_whole_or_not_at_all() -> None:
    cluster = Cluster([*machines(1), *machines(1, free=7, first=1)])
    cluster.waiting = [Waiting("gang", demand=gang(2))]
    assert started(cluster.round()) == []
    cluster.nodes = machines(2)
    (decision,) = cluster.round()
    assert decision.start and sorted(decision.nodes) == ["m0", "m1"]


def test_who_waits_is_told_what_it_needs_what_is_free_and_how_many_are_before_it() -> None:
    waiting = [Waiting(f"e{i}", demand=gang(1), queued_at=NOW - 9 + i) for i in range(3)]
    nodes = [*machines(1, free=3), *machines(1, free=2, first=1)]
    assert [d.reason for d in decide(waiting, [], nodes, PolicySettings(), NOW)] == [
        "waits: needs 8 GPUs on one machine, at most 3 are free; first in the queue",
        "waits: needs 8 GPUs on one machine, at most 3 are free; 1 before it",
        "waits: needs 8 GPUs on one machine, at most 3 are free; 2 before it",
    ]


@pytest.mark.parametrize(
    ("demand", "free", "text"),
    [
        (gang(1, 1), [0], "needs 1 GPU on one machine, 0 are free"),
        (gang(2, 8), [8, 4], "needs 16 GPUs in bundles of 8, 12 are free"),
        (gang(2, 8), [7, 7, 7], "needs 16 GPUs in bundles of 8, 21 are free, at most 7 on one machine"),
        (gang(1, 8), [1], "needs 8 GPUs on one machine, 1 is free"),
    ],
)
def test_what_is_lacking_is_named(demand: Demand, free: list[float], text: str) -> None:
    nodes = [machines(1, free=gpus, first=i)[0] for i, gpus in enumerate(free)]
    (decision,) = decide([Waiting("e", demand=demand)], [], nodes, PolicySettings(), NOW)
    assert decision.reason == f"waits: {text}; first in the queue"


def test_a_lack_of_memory_is_called_that() -> None:
    (node,) = machines(1)
    demand = Demand((Bundle(1, 1, 400),))
    (decision,) = decide([Waiting("e", demand=demand)], [], [replace(node, free_memory_gib=100)], PolicySettings(), NOW)
    assert decision.reason == "waits: needs 400 GiB of memory on one machine, 100 are free; first in the queue"


def test_nothing_starts_before_its_back_off_is_over() -> None:
    e = Waiting("e", not_before=NOW + 10)
    (decision,) = decide([e], [], machines(1), PolicySettings(), NOW)
    assert (decision.why, decision.reason) == (Why.BACK_OFF, "waits until 13:46:50 UTC for its next try")
    assert decide([e], [], machines(1), PolicySettings(), NOW + 10)[0].start


def test_a_user_at_the_quota_waits_and_others_start() -> None:
    settings = PolicySettings(quota=Quota(gpus=8), quotas={"bob": Quota(running=1), "eve": Quota()})
    running = [Waiting("r", demand=gang(1, 6)), Waiting("s", user="bob")]
    waiting = [
        Waiting("a", demand=gang(1, 4)),
        Waiting("b", user="bob"),
        Waiting("c", user="cy"),
        Waiting("e", user="eve"),
    ]
    decisions = decide(waiting, running, machines(4), settings, NOW)
    assert sorted(started(decisions)) == ["c", "e"]
    assert reasons(decisions)["a"] == "waits: needs 4 GPUs, the quota of ann is 8, of which 6 are in use"
    assert reasons(decisions)["b"] == "waits: bob may run 1 at a time, as many are running"
    assert started(decide([Waiting("a2", demand=gang(1, 2))], running, machines(4), settings, NOW)) == ["a2"]


def test_a_quota_is_left_to_who_has_waited_long_for_it() -> None:
    settings = PolicySettings(quota=Quota(gpus=8), reserve_after_s=1800.0)
    running = [Waiting("r", demand=gang(1, 4))]
    small = Waiting("small", demand=gang(1, 1))
    fresh, old = (Waiting("whole", demand=gang(1), queued_at=NOW - waited) for waited in (60, HOUR))
    assert started(decide([fresh, small], running, machines(2), settings, NOW)) == ["small"]
    decisions = decide([old, small], running, machines(2), settings, NOW)
    assert reasons(decisions)["small"] == "waits: the quota of ann is kept for whole, waiting longer"
    assert started(decide([old, small], [], machines(2), settings, NOW)) == ["whole"]


def test_what_asks_for_more_than_the_quota_is_known_before_it_is_queued_and_keeps_nobody_waiting() -> None:
    quota = Quota(gpus=8, cpus=4)
    assert beyond_quota(gang(2), quota, "ann") == "asks for 16 GPUs, the quota of ann is 8"
    assert beyond_quota(Demand((Bundle(5, 0),)), quota, "ann") == "asks for 5 CPUs, the quota of ann is 4"
    assert beyond_quota(gang(1), quota, "ann") == ""
    waiting = [Waiting("never", demand=gang(2), queued_at=NOW - 9 * HOUR), Waiting("e", demand=gang(1))]
    assert started(decide(waiting, [], machines(3), PolicySettings(quota=quota), NOW)) == ["e"]


def test_machines_are_held_for_one_that_waited_long_and_only_what_fits_beside_starts() -> None:
    running = [Waiting("r", user="bob", demand=gang(1), queued_at=NOW - 9)]
    nodes = [*machines(1, free=0), *machines(1, free=8, first=1), *machines(1, free=1, first=2)]
    big = Waiting("big", demand=gang(2, 6), queued_at=NOW - HOUR)
    waiting = [
        big,
        Waiting("four", demand=gang(1, 4)),
        Waiting("one", demand=gang(1, 1)),
        Waiting("cpu", demand=gang(1, 0)),
    ]
    decisions = decide(waiting, running, nodes, ONE, NOW)
    assert sorted(started(decisions)) == ["cpu", "one"]
    assert held_nodes(decisions) == {"big": ("m1", "m2")}
    assert reasons(decisions)["big"].endswith("; held for it: m1 and m2")
    assert [d.why for d in decisions if d.id == "four"] == [Why.HELD]
    assert "which is free but held for big, waiting longer" in reasons(decisions)["four"]
    fresh = [replace(big, queued_at=NOW - 60), *waiting[1:]]
    assert "four" in started(decide(fresh, running, nodes, ONE, NOW))


def test_who_comes_before_it_may_take_what_is_held() -> None:
    waiting = [
        Waiting("big", demand=gang(2), queued_at=NOW - HOUR),
        Waiting("urgent", user="bob", priority=HIGH, demand=gang(1)),
    ]
    nodes = [*machines(1), *machines(1, free=0, first=1)]
    assert started(decide(waiting, [], nodes, ONE, NOW, held={"big": ("m0", "m1")})) == ["urgent"]


def test_machines_stay_held_unless_others_miss_less() -> None:
    big = [Waiting("big", demand=gang(1), queued_at=NOW - HOUR)]
    nodes = [*machines(2, free=4), *machines(1, free=3, first=2)]
    assert held_nodes(decide(big, [], nodes, ONE, NOW)) == {"big": ("m0",)}
    assert held_nodes(decide(big, [], nodes, ONE, NOW, held={"big": ("m1",)})) == {"big": ("m1",)}
    assert held_nodes(decide(big, [], nodes, ONE, NOW, held={"big": ("m2",)})) == {"big": ("m0",)}
    assert held_nodes(decide(big, [], nodes, ONE, NOW, held={"big": ("gone",)})) == {"big": ("m0",)}


def test_a_stream_of_small_ones_can_not_keep_a_big_gang_waiting() -> None:
    cluster = Cluster(machines(2), ONE)
    cluster.waiting = [Waiting(f"s{i}", user="bob", demand=gang(1, 4), queued_at=NOW - 5) for i in range(4)]
    cluster.round()
    cluster.waiting.append(Waiting("big", demand=gang(2), priority=LOW, queued_at=NOW))
    for step in range(400):
        cluster.now += 600
        cluster.end(next(iter(cluster.running)))
        cluster.waiting.append(Waiting(f"t{step:03d}", user=f"u{step}", demand=gang(1, 4), queued_at=cluster.now))
        cluster.round()
        if "big" in cluster.running:
            break
    assert cluster.now - NOW < 10 * HOUR


def test_an_empty_cluster_says_so_and_an_empty_demand_starts() -> None:
    (decision,) = decide([Waiting("e")], [], [], PolicySettings(), NOW)
    assert decision.why is Why.NEVER and decision.reason.endswith("the cluster has no machine")
    assert decide([Waiting("e", demand=Demand())], [], [], PolicySettings(), NOW)[0].start
    assert decide([], [], machines(1), PolicySettings(), NOW) == []

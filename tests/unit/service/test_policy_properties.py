"""What holds of every round, whatever waits and runs."""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from queue_room import NOW, Cluster, Waiting

from orchestrator.service.messages import Bundle, Demand, Priority, Quota
from orchestrator.service.placement import Node, hold, never_fits, place
from orchestrator.service.policy import Decision, PolicySettings, Why, decide, held_nodes

USERS = ("ann", "bob", "cy")
QUOTAS = {"ann": Quota(gpus=6), "bob": Quota(running=2, cpus=9)}
RULES = st.builds(
    PolicySettings,
    age_step_s=st.sampled_from([60.0, 3600.0]),
    reserve_after_s=st.sampled_from([0.0, 600.0]),
    reservations=st.integers(0, 2),
    fair_share=st.booleans(),
    quotas=st.sampled_from([{}, QUOTAS]),
)
BUNDLES = st.builds(
    Bundle, cpus=st.integers(0, 4), gpus=st.sampled_from([0, 0.5, 1, 2, 4]), memory_gib=st.sampled_from([0, 8])
)
DEMANDS = st.lists(BUNDLES, min_size=1, max_size=4).map(lambda bundles: Demand(tuple(bundles)))
EXPERIMENTS = st.builds(
    Waiting,
    id=st.just(""),
    user=st.sampled_from(USERS),
    priority=st.sampled_from(Priority),
    demand=DEMANDS,
    queued_at=st.integers(0, 5000).map(lambda s: NOW - s),
    not_before=st.sampled_from([0.0, 0.0, 0.0, NOW + 5]),
)
MACHINES = st.lists(st.sampled_from([(8, 4, 32), (4, 2, 16), (16, 0, 64)]), min_size=1, max_size=4).map(
    lambda sizes: [Node.empty(f"m{i}", cpus=c, gpus=g, memory_gib=m) for i, (c, g, m) in enumerate(sizes)]
)


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    """Some run, placed by the placement itself; the others wait."""
    cluster = Cluster(draw(MACHINES), draw(RULES))
    for i, e in enumerate(draw(st.lists(EXPERIMENTS, max_size=14))):
        named = replace(e, id=f"e{i:02d}")
        where = place(named.demand, cluster.free()) if draw(st.booleans()) else None
        if where is None:
            cluster.waiting.append(named)
        else:
            cluster.running[named.id] = replace(named, first_started_at=named.queued_at + 1), where
    return cluster


def free_after(cluster: Cluster) -> list[tuple[float, float, float]]:
    """What is left of each machine, without rounding up to nothing."""
    out = {node.id: [node.gpus, node.cpus, node.memory_gib] for node in cluster.nodes}
    for e, where in cluster.running.values():
        for bundle, id in zip(e.demand.bundles, where, strict=True):
            for k, amount in enumerate((bundle.gpus, bundle.cpus, bundle.memory_gib)):
                out[id][k] -= amount
    return [(gpus, cpus, memory) for gpus, cpus, memory in out.values()]


@settings(max_examples=80, deadline=None)
@given(clusters())
def test_no_machine_is_overcommitted_no_gang_split_and_everybody_is_answered(cluster: Cluster) -> None:
    asked = {e.id: e for e in cluster.waiting}
    decisions = cluster.round()
    assert sorted(d.id for d in decisions) == sorted(asked)
    assert all(d.reason for d in decisions)
    assert min(min(left) for left in free_after(cluster)) >= -1e-9
    for d in decisions:
        if d.start:
            assert len(d.nodes) == len(asked[d.id].demand.bundles)
            assert asked[d.id].not_before <= NOW


@settings(max_examples=80, deadline=None)
@given(clusters())
def test_no_user_gets_beyond_the_quota(cluster: Cluster) -> None:
    before = {user: used(cluster, user) for user in USERS}
    cluster.round()
    for user, quota in cluster.settings.quotas.items():
        gpus, cpus, running = used(cluster, user)
        assert gpus <= max(quota.gpus, before[user][0]) or not quota.gpus
        assert cpus <= max(quota.cpus, before[user][1]) or not quota.cpus
        assert running <= max(quota.running, before[user][2]) or not quota.running


def used(cluster: Cluster, user: str) -> tuple[float, float, int]:
    own = [e.demand for e, _ in cluster.running.values() if e.user == user]
    return sum(d.gpus for d in own), sum(d.cpus for d in own), len(own)


@settings(max_examples=50, deadline=None)
@given(clusters(), st.randoms(use_true_random=False))
def test_decisions_do_not_depend_on_the_order_of_what_is_given(cluster: Cluster, dice: random.Random) -> None:
    running, free = [e for e, _ in cluster.running.values()], cluster.free()

    def decisions(shuffled: bool) -> list[Decision]:
        def some(items: list) -> list:
            return dice.sample(items, len(items)) if shuffled else items

        return decide(some(cluster.waiting), some(running), some(free), cluster.settings, NOW, held=cluster.held)

    assert decisions(True) == decisions(False)


@settings(max_examples=80, deadline=None)
@given(clusters())
def test_whoever_waits_for_room_or_held_machines_is_told_the_truth(cluster: Cluster) -> None:
    asked = {e.id: e for e in cluster.waiting}
    decisions = cluster.round()
    left = cluster.free()
    for d in decisions:
        demand = asked[d.id].demand
        if d.why is Why.ROOM:
            assert place(demand, left) is None
        elif d.why is Why.HELD:
            assert place(demand, left) is not None and cluster.held
        assert (d.why is Why.NEVER) == (never_fits(demand, cluster.nodes) != "")


@settings(max_examples=80, deadline=None)
@given(clusters())
def test_what_starts_behind_a_reservation_leaves_what_is_held(cluster: Cluster) -> None:
    waiting = {e.id: e for e in cluster.waiting}
    free = {node.id: node for node in cluster.free()}
    decisions = cluster.round()
    for at, holder in enumerate(decisions):
        if holder.id not in held_nodes(decisions):
            continue
        before = list(free.values())
        for d in decisions[:at]:
            if d.start:
                before = hold(before, waiting[d.id].demand, d.nodes)
        after = cluster.free()
        kept = hold(before, waiting[holder.id].demand, holder.nodes)
        for was, wanted, now in zip(before, kept, after, strict=True):
            assert now.free_gpus >= min(was.free_gpus, was.free_gpus - wanted.free_gpus) - 1e-9


@settings(max_examples=60, deadline=None)
@given(st.lists(EXPERIMENTS, min_size=2, max_size=8), st.integers(0, 10), st.sampled_from([60.0, 3600.0]))
def test_waiting_longer_never_costs_a_place(experiments: list[Waiting], hours: int, age_step_s: float) -> None:
    """Of two equal ones of users who hold nothing, the older is first; and one that came later never pushes the older back."""
    rules = PolicySettings(age_step_s=age_step_s)
    nodes = [Node("m", 8, 4, 32, 0, 0, 0)]
    named = [replace(e, id=f"e{i}", demand=experiments[0].demand, user=f"u{i}") for i, e in enumerate(experiments)]
    now = NOW + hours * 3600
    place_of = {d.id: at for at, d in enumerate(decide(named, [], nodes, rules, now))}
    for e in named:
        older = [replace(other, queued_at=other.queued_at - 7200) if other.id == e.id else other for other in named]
        places = {d.id: at for at, d in enumerate(decide(older, [], nodes, rules, now))}
        assert places[e.id] <= place_of[e.id]
        younger = replace(e, id="young", user="young", queued_at=now)
        with_younger = [d.id for d in decide([*named, younger], [], nodes, rules, now)]
        assert with_younger.index(e.id) < with_younger.index("young")


@settings(max_examples=25, deadline=None)
@given(st.lists(EXPERIMENTS, min_size=1, max_size=12), MACHINES, RULES, st.randoms(use_true_random=False))
def test_everything_that_fits_is_started_some_day(
    experiments: list[Waiting], nodes: list[Node], rules: PolicySettings, dice: random.Random
) -> None:
    cluster = Cluster(nodes, replace(rules, quotas={}))
    cluster.waiting = [replace(e, id=f"e{i:02d}") for i, e in enumerate(experiments)]
    able = {e.id for e in cluster.waiting if not never_fits(e.demand, nodes)}
    for _ in range(3 * len(experiments) + 3):
        cluster.round()
        cluster.now += 600
        if cluster.running:
            cluster.end(dice.choice(sorted(cluster.running)))
    assert set(cluster.order) == able


@settings(max_examples=12, deadline=None)
@given(DEMANDS, MACHINES, st.integers(0, 2**32), st.sampled_from(Priority))
def test_an_experiment_starts_however_many_newer_ones_keep_coming(
    demand: Demand, nodes: list[Node], seed: int, priority: Priority
) -> None:
    """The cluster never runs empty: small runs of high priority and of every user come as fast as others end."""
    if never_fits(demand, nodes):
        return
    dice = random.Random(seed)
    cluster = Cluster(nodes, PolicySettings(age_step_s=3600.0, reserve_after_s=1800.0, reservations=1))
    cluster.waiting = [newer(dice, i, NOW - 1) for i in range(30)]
    cluster.round()
    cluster.waiting.append(Waiting("it", user="ann", demand=demand, priority=priority, queued_at=NOW))
    for i in range(30, 330):
        cluster.now += 300
        for id in [id for id in cluster.running if id != "it" and dice.random() < 0.5]:
            cluster.end(id)
        cluster.waiting.append(newer(dice, i, cluster.now))
        cluster.round()
        if "it" in cluster.running:
            return
    raise AssertionError(f"waiting for {cluster.now - NOW:.0f} s: {cluster.held} {len(cluster.waiting)}")


def newer(dice: random.Random, i: int, at: float) -> Waiting:
    user = dice.choice(USERS)
    demand = Demand((Bundle(1, dice.choice([0.0, 0.5, 1.0])),))
    return Waiting(f"n{i:03d}", user=user, priority=Priority.HIGH, demand=demand, queued_at=at)

"""Gangs find machines whole or not at all, and nothing is given away twice."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.service.messages import Bundle, Demand
from orchestrator.service.placement import Node, Strategy, hold, never_fits, place

AMOUNTS = st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0, 3.0, 4.0, 8.0])
BUNDLES = st.builds(Bundle, cpus=AMOUNTS, gpus=AMOUNTS, memory_gib=st.sampled_from([0.0, 1.5, 16.0]))
DEMANDS = st.builds(Demand, st.lists(BUNDLES, max_size=6).map(tuple))


@st.composite
def clusters(draw: st.DrawFn) -> list[Node]:
    out = []
    for i in range(draw(st.integers(0, 5))):
        cpus, gpus, memory = draw(AMOUNTS), draw(AMOUNTS), draw(st.sampled_from([1.5, 16.0, 64.0]))
        busy = draw(st.sampled_from([0.0, 0.5, 1.0]))
        out.append(Node(f"n{i}", cpus, gpus, memory, cpus * busy, gpus * busy, memory * busy))
    return out


def machine(name: str, gpus: float, *, total: float = 8.0, cpus: float = 64.0) -> Node:
    return Node(name, cpus, total, 512.0, cpus, gpus, 512.0)


def gang(count: int, gpus: float, cpus: float = 1.0) -> Demand:
    return Demand((Bundle(cpus, gpus),) * count)


@settings(max_examples=100, deadline=None)
@given(DEMANDS, clusters(), st.sampled_from(Strategy))
def test_a_placement_names_a_machine_for_every_bundle_and_overcommits_none(
    demand: Demand, nodes: list[Node], strategy: Strategy
) -> None:
    where = place(demand, nodes, strategy)
    if where is None:
        return
    assert len(where) == len(demand.bundles)
    for node in nodes:
        on_it = [bundle for bundle, id in zip(demand.bundles, where, strict=True) if id == node.id]
        assert sum(b.gpus for b in on_it) <= node.free_gpus + 1e-6
        assert sum(b.cpus for b in on_it) <= node.free_cpus + 1e-6
        assert sum(b.memory_gib for b in on_it) <= node.free_memory_gib + 1e-6


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 9),
    st.sampled_from([1, 2, 3, 4, 8]),
    st.lists(st.integers(0, 8), max_size=5),
    st.sampled_from(Strategy),
)
def test_equal_bundles_find_room_exactly_when_there_is_room(
    count: int, size: int, free: list[int], strategy: Strategy
) -> None:
    nodes = [machine(f"n{i}", gpus) for i, gpus in enumerate(free)]
    assert (place(gang(count, size), nodes, strategy) is not None) == (sum(gpus // size for gpus in free) >= count)


@settings(max_examples=60, deadline=None)
@given(DEMANDS, clusters(), st.randoms(use_true_random=False), st.sampled_from(Strategy))
def test_a_placement_does_not_depend_on_the_order_of_the_machines(
    demand: Demand, nodes: list[Node], dice: random.Random, strategy: Strategy
) -> None:
    assert place(demand, dice.sample(nodes, len(nodes)), strategy) == place(demand, nodes, strategy)


@settings(max_examples=60, deadline=None)
@given(DEMANDS, clusters(), st.sampled_from(Strategy))
def test_what_is_said_never_to_fit_does_not_fit_empty_machines_and_the_rest_does(
    demand: Demand, nodes: list[Node], strategy: Strategy
) -> None:
    empty = [Node.empty(n.id, cpus=n.cpus, gpus=n.gpus, memory_gib=n.memory_gib) for n in nodes]
    assert (never_fits(demand, nodes) == "") == (place(demand, empty, strategy) is not None)


def test_a_gang_takes_the_tightest_machine_that_holds_all_of_it() -> None:
    nodes = [machine("a", 8), machine("b", 5), machine("c", 4), machine("d", 3)]
    assert place(gang(4, 1), nodes) == ("c",) * 4
    assert place(gang(1, 5), nodes) == ("b",)


def test_a_gang_too_large_for_one_machine_takes_few_machines_and_leaves_others_whole() -> None:
    nodes = [machine("a", 2), machine("b", 8), machine("c", 8), machine("d", 8), machine("e", 1)]
    assert place(gang(10, 1), nodes) == ("b",) * 8 + ("a",) * 2


def test_processes_without_gpus_keep_off_machines_with_gpus() -> None:
    assert place(gang(2, 0, cpus=4), [machine("gpu", 8), machine("cpu", 0, total=0)]) == ("cpu", "cpu")


def test_spread_gives_every_machine_a_part_before_any_gets_a_second() -> None:
    nodes = [machine("a", 8), machine("b", 6), machine("c", 8)]
    assert sorted(place(gang(3, 1), nodes, Strategy.SPREAD) or ()) == ["a", "b", "c"]


def test_large_bundles_are_placed_before_small_ones_however_they_are_listed() -> None:
    nodes = [machine("a", 8), machine("b", 2)]
    assert place(Demand((Bundle(1, 1), Bundle(1, 8), Bundle(1, 1))), nodes) == ("b", "a", "b")


def test_tenths_of_a_gpu_add_up_to_whole_ones() -> None:
    assert place(gang(10, 0.1), [machine("a", 1)]) == ("a",) * 10
    assert place(gang(11, 0.1), [machine("a", 1)]) is None


def test_what_is_held_is_taken_from_what_is_free() -> None:
    nodes = hold([machine("a", 8), machine("b", 3)], gang(2, 2), ("a", "b"))
    assert [node.free_gpus for node in nodes] == [6, 1]
    assert [node.gpus for node in nodes] == [8, 8]


@pytest.mark.parametrize(
    ("demand", "nodes", "text"),
    [
        (
            gang(2, 16),
            [machine("a", 8), machine("b", 8)],
            "asks for 32 GPUs in bundles of 16; the cluster has 16 GPUs on 2 machines, the largest machine 8",
        ),
        (
            gang(1, 16),
            [machine("a", 0)] * 1,
            "asks for 16 GPUs on one machine; the cluster has 8 GPUs on 1 machine, the largest machine 8",
        ),
        (
            Demand((Bundle(128, 1),)),
            [machine("a", 8)],
            "asks for 128 CPUs on one machine; the cluster has 64 CPUs on 1 machine, the largest machine 64",
        ),
        (gang(1, 1), [], "asks for 1 GPU on one machine; the cluster has no machine"),
        (
            gang(3, 5),
            [machine("a", 8), machine("b", 8)],
            "asks for 15 GPUs and 3 CPUs in 3 bundles; the cluster has 16 GPUs, 128 CPUs and 1,024 GiB of memory on 2 machines, "
            "but not divided so that every bundle finds all it needs on one machine",
        ),
    ],
)
def test_what_can_never_fit_is_told_in_words(demand: Demand, nodes: list[Node], text: str) -> None:
    assert never_fits(demand, nodes) == text

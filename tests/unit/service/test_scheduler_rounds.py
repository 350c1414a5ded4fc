"""What is promised but not reserved yet counts as taken; what Ray lists becomes machines."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.service.capacity import Cluster, RayCapacity
from orchestrator.service.launcher import namespace_of
from orchestrator.service.messages import Bundle, Demand, Experiment, Priority, State
from orchestrator.service.placement import Node
from orchestrator.service.scheduler import less_promised

GIB = 1 << 30


class Listing:
    """Rows as Ray's state API lists them."""

    def __init__(self, **rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    def rows(self, kind: str, **_: str) -> list[dict[str, Any]]:
        return self._rows.get(kind, [])


def starting(id: str, *bundles: Bundle) -> Experiment:
    return Experiment(
        id, id, "alice", State.STARTING, Priority.NORMAL, (), Demand(bundles), 0.0, "", "", attempt=1, job=f"{id}-1"
    )


def free(nodes: list[Node]) -> float:
    return sum(node.free_cpus for node in nodes)


@given(st.lists(st.integers(1, 3), max_size=6), st.sets(st.integers(0, 5)))
def test_what_is_promised_is_not_given_away_twice(cpus: list[int], reserved: set[int]) -> None:
    active = [starting(f"e{i}", Bundle(cpus=float(amount))) for i, amount in enumerate(cpus)]
    gangs = frozenset(namespace_of(one.job) for i, one in enumerate(active) if i in reserved)
    cluster = Cluster((Node.empty("a", cpus=32.0),), gangs)
    promised = sum(amount for i, amount in enumerate(cpus) if i not in reserved)
    assert free(less_promised(cluster, active)) == 32.0 - promised


def test_a_promise_that_no_longer_fits_takes_nothing_away() -> None:
    cluster = Cluster((Node.empty("a", cpus=2.0),))
    assert free(less_promised(cluster, [starting("big", Bundle(cpus=8.0))])) == 2.0


def test_groups_and_lonely_actors_hold_what_they_asked_for() -> None:
    rows = Listing(
        nodes=[
            {"node_id": "n1", "resources_total": {"CPU": 8.0, "GPU": 2.0, "memory": 64.0 * GIB}},
            {"node_id": "n2", "resources_total": {"CPU": 4.0}},
        ],
        placement_groups=[
            {
                "name": "mgrd-x-1",
                "state": "CREATED",
                "bundles": [{"node_id": "n1", "unit_resources": {"CPU": 1.0, "GPU": 1.0}}],
            },
            {
                "name": "mgrd-y-1",
                "state": "PENDING",
                "bundles": [{"node_id": "", "unit_resources": {"CPU": 4.0}}],
            },
            {"name": "old", "state": "REMOVED", "bundles": [{"node_id": "n2", "unit_resources": {"CPU": 4.0}}]},
        ],
        actors=[
            {"node_id": "n2", "placement_group_id": "", "required_resources": {"CPU": 3.0}},
            {"node_id": "n1", "placement_group_id": "p", "required_resources": {"CPU": 1.0}},
        ],
    )
    cluster = RayCapacity(rows).look()  # type: ignore[arg-type]
    assert cluster.gangs == {"mgrd-x-1"}
    assert [(n.id, n.free_cpus, n.free_gpus, n.free_memory_gib) for n in cluster.nodes] == [
        ("n1", 7.0, 1.0, 64.0),
        ("n2", 1.0, 0.0, 0.0),
    ]

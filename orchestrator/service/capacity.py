"""What a Ray cluster has and what is free of it, machine by machine, asked of its state API.

Neighbours: `scheduler` asks each round, the API shows it. This process does not join the cluster. Invariants: what a placement group
or an actor holds is not free; a machine that is gone is left out; Ray being away raises `RayAway`, and the next question starts anew.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.service.placement import Node
from orchestrator.service.ray_api import RayApi

GIB = 1 << 30
Amounts = dict[str, float]


@dataclass(frozen=True, slots=True)
class Cluster:
    """nodes: sorted by id; gangs: names of the placement groups that hold their resources already."""

    nodes: tuple[Node, ...] = ()
    gangs: frozenset[str] = frozenset()


class RayCapacity:
    """Looks at one cluster. Tasks outside of actors and placement groups are not seen: Ray does not tell whom they belong to in time."""

    def __init__(self, api: RayApi) -> None:
        self._api = api

    def look(self) -> Cluster:
        """Raises RayAway, RayRefused."""
        groups = [row for row in self._api.rows("placement_groups") if row["state"] in ("CREATED", "RESCHEDULING")]
        actors = [row for row in self._api.rows("actors", state="ALIVE") if not row.get("placement_group_id")]
        return Cluster(
            nodes=_nodes(self._api.rows("nodes", state="ALIVE"), [*_held_by_groups(groups), *_held_by_actors(actors)]),
            gangs=frozenset(str(row.get("name") or "") for row in groups),
        )


def _nodes(rows: Iterable[Mapping[str, Any]], held: Iterable[tuple[str, Amounts]]) -> tuple[Node, ...]:
    nodes = {str(row["node_id"]): _empty(str(row["node_id"]), row.get("resources_total") or {}) for row in rows}
    for id, amounts in held:
        if id in nodes:
            nodes[id] = _less(nodes[id], amounts)
    return tuple(nodes[id] for id in sorted(nodes))


def _empty(id: str, total: Mapping[str, float]) -> Node:
    cpus, gpus, memory = total.get("CPU", 0.0), total.get("GPU", 0.0), total.get("memory", 0.0)
    return Node.empty(id, cpus=cpus, gpus=gpus, memory_gib=memory / GIB)


def _less(node: Node, amounts: Amounts) -> Node:
    return dataclasses.replace(
        node,
        free_cpus=max(0.0, node.free_cpus - amounts.get("CPU", 0.0)),
        free_gpus=max(0.0, node.free_gpus - amounts.get("GPU", 0.0)),
        free_memory_gib=max(0.0, node.free_memory_gib - amounts.get("memory", 0.0) / GIB),
    )


def _held_by_groups(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, Amounts]]:
    return [
        (str(bundle.get("node_id") or ""), dict(bundle.get("unit_resources") or {}))
        for row in rows
        for bundle in row.get("bundles") or []
    ]


def _held_by_actors(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, Amounts]]:
    return [(str(row.get("node_id") or ""), dict(row.get("required_resources") or {})) for row in rows]

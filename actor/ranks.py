"""The processes of trainer ranks: who they are, and their end on whatever machine they run.

Neighbours: `actor.worker` says who it is, `actor.group` ends them. Invariants: only the very process that was named is signalled, never a
later one with its number; SIGKILL ends stopped processes, too; every wait has a limit, and what is left after it is named.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

log = logging.getLogger(__name__)

LOOK_AGAIN_S = 0.02
REMOTE_GRACE_S = 2.0  # for a remote answer to arrive


@dataclass(frozen=True, slots=True)
class RankProcess:
    """pid: on `host`; node: Ray's id of the machine; born: seconds since 1970, as the machine's kernel has it."""

    pid: int
    host: str
    node: str
    born: float

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}"


def this_process() -> RankProcess:
    """Of an actor or driver on a running Ray."""
    born = psutil.Process().create_time()
    return RankProcess(os.getpid(), socket.gethostname(), ray.get_runtime_context().get_node_id(), born)


def state(process: RankProcess) -> str:
    """What the kernel of this machine says of it: `stopped`, `running`, `sleeping`…; "" when it has ended."""
    try:
        found = psutil.Process(process.pid)
        same = abs(found.create_time() - process.born) < 1.0
        status: str = found.status() if same else psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return ""
    return "" if status in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD) else status


def end_here(processes: Sequence[RankProcess], timeout_s: float) -> list[RankProcess]:
    """SIGKILL to those of this machine that still are; returns those that are left after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    for process in processes:
        if state(process):
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself meanwhile
                os.kill(process.pid, signal.SIGKILL)
    while (left := [process for process in processes if state(process)]) and time.monotonic() < deadline:
        time.sleep(LOOK_AGAIN_S)
    return left


def end(processes: Sequence[RankProcess], timeout_s: float) -> list[RankProcess]:
    """As `end_here`, on every machine that has one of them: elsewhere by a task on that machine. A machine that Ray knows to be dead has
    none left."""
    deadline = time.monotonic() + timeout_s
    here = ray.get_runtime_context().get_node_id()
    by_node: dict[str, list[RankProcess]] = {}
    for process in processes:
        by_node.setdefault(process.node, []).append(process)
    answers = {
        node: end_elsewhere(node, found, max(0.1, timeout_s - REMOTE_GRACE_S))
        for node, found in by_node.items()
        if node != here
    }
    left = end_here(by_node.get(here, []), timeout_s)
    for node, answer in answers.items():
        try:
            left += ray.get(answer, timeout=max(0.0, deadline - time.monotonic()))
        except RayError as error:
            if not _is_dead(node):
                log.error("the machine of ranks %s did not end them in time: %s", _said(by_node[node]), error)
                left += by_node[node]
    return left


def end_elsewhere(node: str, processes: Sequence[RankProcess], timeout_s: float) -> ray.ObjectRef:
    """`end_here` on that machine; needs no free CPU there."""
    where = NodeAffinitySchedulingStrategy(node, soft=False)
    task = ray.remote(end_here).options(num_cpus=0, max_retries=0, scheduling_strategy=where)
    return task.remote(list(processes), timeout_s)


def _is_dead(node: str) -> bool:
    return not any(known["NodeID"] == node and known["Alive"] for known in ray.nodes())


def _said(processes: Sequence[RankProcess]) -> str:
    return ", ".join(str(process) for process in processes)

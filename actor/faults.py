"""Faults that a test has planned for trainer ranks: a signal to the rank itself as it enters a phase.

Neighbours: `actor.phases` asks at every phase; tests/chaos writes the plan. Invariants: without MGRD_CHAOS_RANKS a phase costs one
dictionary look-up; each fault strikes once, in the order of the plan, however often ranks are started anew.
"""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

VARIABLE = "MGRD_CHAOS_RANKS"  # a folder that holds the plan

_passed: Counter[str] = Counter()  # by phase, since this process began


@dataclass(frozen=True, slots=True)
class Fault:
    """rank: that is struck; phase: name of the phase as it is entered; passing: at which entry since the rank's process began, from 1;
    signal: SIGKILL or SIGSTOP."""

    rank: int
    phase: str
    passing: int = 1
    signal: str = "SIGKILL"


def plan(folder: Path, faults: Sequence[Fault]) -> None:
    """Write the plan: one file a fault, struck in this order."""
    folder.mkdir(parents=True)
    for number, fault in enumerate(faults):
        (folder / f"{number:03d}.json").write_text(json.dumps(asdict(fault)), encoding="utf-8")


def left(folder: Path) -> list[str]:
    """Names of faults that have not struck yet."""
    return sorted(path.name for path in folder.glob("*.json"))


def strike(rank: int, phase: str) -> None:
    """Send this process the signal of the next fault of the plan, where that is for this rank and this entry of the phase."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        return
    _passed[phase] += 1
    if not (names := left(Path(folder))):
        return
    path = Path(folder) / names[0]
    try:
        fault = Fault(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:  # another rank has just taken it
        return
    if (fault.rank, fault.phase) == (rank, phase) and _passed[phase] >= fault.passing:
        path.rename(path.with_suffix(".struck"))
        os.kill(os.getpid(), getattr(signal, fault.signal))

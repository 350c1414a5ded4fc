"""A small process that outlives its owner only to clean up behind it. Run as a script, standard library only.

Neighbours: `embedded.py` starts one beside a run and tells it which processes to watch.
Invariants: while the owner lives, nothing is touched; when the owner is gone, however it died (also by SIGKILL), every process that
descended from it is ended, politely first; a process id that was reused by a stranger is never signalled.

    python -I -S guardian.py OWNER_PID      # stdin: lines of process ids to watch at once, `done` to leave without doing anything
"""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import time
from pathlib import Path

POLL_S = (
    0.5  # a look at /proc costs about 3 ms; half a second bounds what a killed run can leave behind, and for how long
)
GRACE_S = (
    3.0  # between asking (SIGTERM) and ending (SIGKILL): enough for Redis to close its log, Ray and MLflow to leave
)

log = logging.getLogger("guardian")
Processes = dict[int, int]  # process id → start time in clock ticks since boot: together they name a process for good


def table() -> dict[int, tuple[int, int]]:
    """Every process of this machine that is not a zombie: id → (parent id, start time)."""
    out = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (row := look(int(entry))) is not None:
            out[int(entry)] = row
    return out


def look(pid: int) -> tuple[int, int] | None:
    """(parent id, start time), or None when there is no such process or only its exit status is left."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    fields = stat[stat.rindex(")") + 2 :].split()  # the name before it may hold spaces and brackets
    return None if fields[0] in "ZX" else (int(fields[1]), int(fields[19]))


def command(pid: int) -> str:
    """Its command line; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def descendants(roots: set[int], rows: dict[int, tuple[int, int]]) -> Processes:
    """Children of `roots`, their children, and so on, without this process."""
    children: dict[int, list[int]] = {}
    for pid, (parent, _) in rows.items():
        children.setdefault(parent, []).append(pid)
    found: Processes = {}
    queue = list(roots)
    while queue:
        for child in children.get(queue.pop(), []):
            if child != os.getpid() and child not in found:
                found[child] = rows[child][1]
                queue.append(child)
    return found


def alive(known: Processes) -> Processes:
    """Those of `known` that still run, with everything that descends from them."""
    rows = table()
    kept = {pid: start for pid, start in known.items() if pid in rows and rows[pid][1] == start}
    return kept | descendants(set(kept), rows)


def end(known: Processes) -> None:
    """SIGTERM, wait, SIGKILL; returns when none is left or when the kernel does not let go of one for a long time."""
    left = alive(known)
    log.info("ending %d processes: %s", len(left), sorted(left))
    deadline = time.monotonic() + GRACE_S
    asked: set[int] = set()
    while left and time.monotonic() < deadline:
        _signal(set(left) - asked, signal.SIGTERM)
        asked |= set(left)
        time.sleep(0.05)
        left = alive(left)
    while left and time.monotonic() < deadline + 4 * GRACE_S:
        _signal(set(left), signal.SIGKILL)
        time.sleep(0.05)
        left = alive(left)
    log.info("done, left: %s", sorted(left))


def _signal(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            log.debug("process %d left by itself", pid)
        except PermissionError:
            log.warning("process %d belongs to another user now", pid)


def watch(owner: int) -> Processes | None:
    """Follow the owner's descendants until it is gone (then: all of them), or until it says `done` (then: None)."""
    known: Processes = {}
    inputs: list[int] = [0]
    buffer = b""
    while os.getppid() == owner:
        readable, _, _ = select.select(inputs, [], [], POLL_S)
        if readable:
            chunk = os.read(0, 4096)
            if not chunk:
                inputs = []  # the owner may be dying just now: its parenthood tells, this pipe does not
                time.sleep(0.05)
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                if line == b"done":
                    return None
                if (row := look(int(line))) is not None:
                    known[int(line)] = row[1]
        known = alive(known) | descendants({owner}, table())
    return known


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    known = watch(int(sys.argv[1]))
    if known is not None:
        end(known)
    return 0


if __name__ == "__main__":
    sys.exit(main())

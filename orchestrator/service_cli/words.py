"""Times, states and curves as people read them (pure).

Neighbours: the tables of `ps`, `show`, `compare`. Invariant: every text is short and of one line.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from orchestrator.service.messages import Experiment, State, Wanted

BARS = "▁▂▃▄▅▆▇█"
COLOURS = {
    State.QUEUED: "cyan",
    State.STARTING: "blue",
    State.RUNNING: "bold blue",
    State.PAUSED: "yellow",
    State.SUCCEEDED: "green",
    State.FAILED: "red",
    State.CANCELLED: "dim",
}
NEXT = {
    State.QUEUED: ("cancel {id}", "events {id} -f"),
    State.STARTING: ("logs {id} -f", "cancel {id}"),
    State.RUNNING: ("logs {id} -f", "pause {id}", "cancel {id}"),
    State.PAUSED: ("resume {id} [key=value …]", "cancel {id}"),
    State.SUCCEEDED: ("clone {id} [key=value …]", "compare {id} OTHER"),
    State.FAILED: ("logs {id} --tail 100", "resume {id} [key=value …]", "clone {id} [key=value …]"),
    State.CANCELLED: ("resume {id} [key=value …]", "clone {id} [key=value …]"),
}


def duration(seconds: float | None) -> str:
    """`3 s`, `12 min`, `2 h 05 min`, `3 d 4 h`; "" for None."""
    if seconds is None:
        return ""
    whole = max(0, round(seconds))
    if whole < 100:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {rest:02d} min"
    return f"{hours // 24} d {hours % 24} h"


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """The curve in one line: means of neighbours where there are more values than columns; a flat one is drawn in the middle."""
    if not values:
        return ""
    columns = min(width, len(values))
    edges = [len(values) * column // columns for column in range(columns + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    if not high > low:
        return BARS[len(BARS) // 2 - 1] * columns
    return "".join(BARS[round((mean - low) / (high - low) * (len(BARS) - 1))] for mean in means)


def state(experiment: Experiment) -> str:
    """In its colour, with what was asked for and is not done yet."""
    asked = "" if experiment.wanted is Wanted.NOTHING else f" → {experiment.wanted}"
    return f"[{COLOURS[experiment.state]}]{experiment.state}[/]{asked}"


def progress(experiment: Experiment) -> str:
    """`t1.reinforce 3/7, update 12/130`."""
    p = experiment.progress
    stages = f" {min(p.stages_done + 1, p.stages_total)}/{p.stages_total}" if p.stages_total else ""
    parts = [f"{p.stage}{stages}"] if p.stage else []
    if p.updates_total:
        parts.append(f"update {p.update}/{p.updates_total}")
    return ", ".join(parts)


def number(value: float | None, digits: int = 3) -> str:
    if value is None:
        return ""
    return f"{value:.{digits}f}" if abs(value) < 1000 else f"{value:,.0f}"


def resources(experiment: Experiment) -> str:
    """`4 CPU, 2 GPU, 16 GiB`."""
    demand = experiment.demand
    parts = [f"{demand.cpus:g} CPU"] if demand.cpus else []
    parts += [f"{demand.gpus:g} GPU"] if demand.gpus else []
    parts += [f"{demand.memory_gib:.1f} GiB"] if demand.memory_gib else []
    return ", ".join(parts)


def first_line(text: str, width: int = 60) -> str:
    line = text.strip().split("\n", 1)[0]
    return line if len(line) <= width else line[: width - 1] + "…"


def next_steps(experiment: Experiment) -> list[str]:
    """Commands that make sense now."""
    return [f"mgrd {step.format(id=experiment.id)}" for step in NEXT[experiment.state]]

"""Runs of the recipe side by side: arms (experiments), each over its seeds, point by point.

Neighbours: `results` reads the runs, `curve` draws, `mgrd report` calls this. Invariants: everything but `write_comparison` is pure; arms
are compared on the seeds that both have; every number comes from a run's report.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.curve import plot, plot_updates
from orchestrator.curve import table as points_table
from orchestrator.errors import MgrdError
from orchestrator.plain import plain
from orchestrator.results import FinishedRun, copy_run, markdown
from orchestrator.rundir import write_atomic

MEASURES = (
    ("sampled", "sampled accuracy"),
    ("greedy", "greedy accuracy"),
    ("true_perceptions", "true perceptions"),
    ("audio_contribution", "audio contribution"),
    ("think_present", "think present"),
    ("think_tokens", "think tokens"),
    ("longer_minus_shorter", "longer − shorter thinking"),
    ("self_cognition_error", "self-cognition error"),
    ("text_greedy", "text, greedy"),
)
IN_TERMINAL = tuple(m for m in MEASURES if m[0] not in ("think_present", "longer_minus_shorter", "text_greedy"))
TOKENS = frozenset({"think_tokens"})  # measures that are no shares
ERROR_OF = {
    "stderr": "sampled",
    "greedy_stderr": "greedy",
    "audio_contribution_stderr": "audio_contribution",
    "self_cognition_stderr": "self_cognition_error",
    "text_stderr": "text_greedy",
}
NOTE = (
    "Means over seeds; ± is the standard deviation over seeds. Per cent, think length in tokens. Longer − shorter: within questions, the "
    "accuracy of the sample that thinks longer minus that of the one that thinks shorter, among samples that think."
)
DIFFERENCES = (
    "First arm minus the other, seed by seed; ± is the standard error of the mean of these differences (none with one seed). Percentage "
    "points, think length in tokens."
)


@dataclass(frozen=True, slots=True)
class Arm:
    """All runs of one experiment, by seed."""

    name: str
    runs: tuple[FinishedRun, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.report["seed"] for run in self.runs)

    @property
    def stages(self) -> tuple[str, ...]:
        """Points of the curve that any run has, in order."""
        return tuple(dict.fromkeys(point["stage"] for run in self.runs for point in run.report["curve"]))

    def values(self, stage: str, key: str) -> dict[int, float]:
        """By seed; runs without the point or the figure are left out."""
        found = {}
        for run in self.runs:
            for point in run.report["curve"]:
                if point["stage"] == stage and (value := measure(point, key)) is not None:
                    found[run.report["seed"]] = value
        return found


@dataclass(frozen=True, slots=True)
class Mean:
    """value over `count` seeds; spread: standard deviation over them, stderr: of the mean; None with one seed."""

    value: float
    spread: float | None
    stderr: float | None
    count: int


def arms_of(runs: Sequence[FinishedRun]) -> list[Arm]:
    """Grouped by experiment, in the order given, seeds ascending. Raises MgrdError for two runs of an experiment with one seed."""
    groups: dict[str, dict[int, FinishedRun]] = {}
    for run in runs:
        name, seed = run.report["experiment"], run.report["seed"]
        if other := groups.setdefault(name, {}).get(seed):
            raise MgrdError(
                f"{other.name} and {run.name} are both {name} with seed {seed}; give one of them, or tell arms apart with run.name=… when "
                "they run"
            )
        groups[name][seed] = run
    return [Arm(name, tuple(found[seed] for seed in sorted(found))) for name, found in groups.items()]


def measure(point: Mapping[str, Any], key: str) -> float | None:
    """A figure of a point of the curve; None where it was not measured."""
    if key == "longer_minus_shorter":
        value = point.get("by_think_length", {}).get("longer_minus_shorter_thinking", {}).get("value")
    else:
        value = point.get(key)
    return None if value is None or not math.isfinite(value) else float(value)


def mean_of(values: Sequence[float]) -> Mean | None:
    """None for no values."""
    if not values:
        return None
    spread = statistics.stdev(values) if len(values) > 1 else None
    stderr = None if spread is None else spread / math.sqrt(len(values))
    return Mean(statistics.fmean(values), spread, stderr, len(values))


def difference(one: Arm, other: Arm, stage: str, key: str) -> Mean | None:
    """one − other over the seeds that both have; None when there are none."""
    left, right = one.values(stage, key), other.values(stage, key)
    return mean_of([left[seed] - right[seed] for seed in sorted(left.keys() & right.keys())])


def mean_curve(arm: Arm) -> list[dict[str, Any]]:
    """One point a stage: means over seeds. A standard error (`stderr`, …) is that over seeds where there are several, the run's own over
    questions where there is one; `spread`: standard deviations over seeds; `seeds`: how many."""
    keys = [
        key
        for key in dict.fromkeys(key for run in arm.runs for point in run.report["curve"] for key in point)
        if key not in ("stage", "by_task", "by_think_length")
    ]
    curve = []
    for stage in arm.stages:
        found = {key: mean_of(list(arm.values(stage, key).values())) for key in (*keys, "longer_minus_shorter")}
        point: dict[str, Any] = {"stage": stage, "seeds": len(arm.values(stage, "sampled"))}
        point |= {key: None if mean is None else mean.value for key, mean in found.items()}
        for error, key in ERROR_OF.items():
            if (mean := found.get(key)) is not None and mean.stderr is not None:
                point[error] = mean.stderr
        point["spread"] = {
            key: mean.spread
            for key, mean in found.items()
            if key not in ERROR_OF and mean is not None and mean.spread is not None
        }
        curve.append(point)
    return curve


def combined_report(arms: Sequence[Arm]) -> dict[str, Any]:
    """`{"curve", "seconds", "seed"}`: as measured for a single run, else the first arm's means over seeds, with all arms beside it."""
    first = arms[0]
    if len(arms) == 1 and len(first.runs) == 1:
        (run,) = first.runs
        return {
            "curve": run.report["curve"],
            "seconds": run.report["seconds"],
            "seed": run.report["seed"],
            "experiment": first.name,
        }
    return {
        "curve": mean_curve(first),
        "seconds": statistics.fmean(run.report["seconds"] for run in first.runs),
        "seed": list(first.seeds),
        "experiment": first.name,
        "arms": {
            arm.name: {
                "curve": mean_curve(arm),
                "seconds": [run.report["seconds"] for run in arm.runs],
                "seed": list(arm.seeds),
            }
            for arm in arms
        },
    }


def arm_rows(arms: Sequence[Arm], measures: Sequence[tuple[str, str]] = MEASURES) -> list[list[str]]:
    """Rows of text, the first one the header: every point of every arm."""
    rows = [["arm", "seeds", "point", *(title for _, title in measures)]]
    for arm in arms:
        seeds = ", ".join(map(str, arm.seeds))
        for stage in arm.stages:
            means = [mean_of(list(arm.values(stage, key).values())) for key, _ in measures]
            cells = [
                _cell(mean, key, mean.spread if mean else None) for mean, (key, _) in zip(means, measures, strict=True)
            ]
            rows.append([arm.name, seeds, stage, *cells])
    return rows


def difference_rows(arms: Sequence[Arm]) -> list[list[str]]:
    """Rows of text, the first one the header: the first arm against each other one, at every point that both have."""
    rows = [["arms", "seeds in both", "point", *(title for _, title in MEASURES)]]
    first = arms[0]
    for other in arms[1:]:
        seeds = sorted(set(first.seeds) & set(other.seeds))
        for stage in (stage for stage in first.stages if stage in other.stages):
            found = [difference(first, other, stage, key) for key, _ in MEASURES]
            cells = [
                _cell(d, key, d.stderr if d else None, signed=True) for d, (key, _) in zip(found, MEASURES, strict=True)
            ]
            rows.append([f"{first.name} − {other.name}", ", ".join(map(str, seeds)) or "none", stage, *cells])
    return rows


def arms_page(arms: Sequence[Arm]) -> str:
    """arms.md: means, then differences where there are several arms, then minutes."""
    parts = ["# Arms\n", NOTE + "\n", markdown(arm_rows(arms))]
    if len(arms) > 1:
        parts += ["## Differences\n", DIFFERENCES + "\n", markdown(difference_rows(arms))]
    minutes = [
        ["arm", "minutes by seed"],
        *([arm.name, ", ".join(f"{run.report['seconds'] / 60:.1f}" for run in arm.runs)] for arm in arms),
    ]
    return "\n".join([*parts, "## Time\n", markdown(minutes)])


def write_comparison(runs: Sequence[FinishedRun], out: Path) -> None:
    """`out`/table.md, arms.md, curve.png, updates.png, report.json, and per run <experiment>-seed<seed>.json (its report) and
    .updates.jsonl. Raises MgrdError as `arms_of`."""
    arms = arms_of(runs)
    out.mkdir(parents=True, exist_ok=True)
    ordered = [run for arm in arms for run in arm.runs]
    write_atomic(out / "table.md", points_table([run.report for run in ordered]))
    write_atomic(out / "arms.md", arms_page(arms))
    write_atomic(out / "report.json", json.dumps(plain(combined_report(arms)), indent=1) + "\n")
    plot({arm.name: [run.report for run in arm.runs] for arm in arms}, out / "curve.png")
    plot_updates({arm.name: [run.updates for run in arm.runs] for arm in arms}, out / "updates.png")
    for run in runs:
        copy_run(run, out, f"{run.report['experiment']}-seed{run.report['seed']}")


def _cell(mean: Mean | None, key: str, error: float | None, *, signed: bool = False) -> str:
    if mean is None:
        return "–"
    scale = 1 if key in TOKENS else 100
    value = f"{scale * mean.value:+.1f}" if signed else f"{scale * mean.value:.1f}"
    return value if error is None else f"{value} ±{scale * error:.1f}"

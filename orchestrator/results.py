"""Several runs side by side: a table, a plot, and the reports the runs wrote.

Neighbours: `report.py` wrote each run's report, `rundir` its policy updates; `mgrd report` calls this for the recipe `rl`, and
`comparison` for `mgrd`. Invariants: every number comes from a file that a run wrote; what is written names no place on this machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.curve import UPDATE_PANELS
from orchestrator.errors import MgrdError
from orchestrator.plain import plain
from orchestrator.rundir import RunDirectory, write_atomic
from orchestrator.sentinels import ALARM, SENTINELS

COLUMNS = (
    ("sampled", "sampled accuracy"),
    ("greedy", "greedy accuracy"),
    ("think_present", "think present"),
    ("true_perceptions", "true perceptions"),
)

PLOTTED = ("reward/mean", "accuracy", "think/true_perceptions", "policy/entropy")
IN_EVERY_REPORT = ("seed", "seconds", "policy_updates")
NONE = "–"  # what a run has no figure of: questions without clips hold no perceptions


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run's directory name, its report and its policy updates in order."""

    name: str
    report: dict[str, Any]
    updates: list[dict[str, Any]]


def read_runs(directories: list[Path]) -> list[FinishedRun]:
    """Raises MgrdError naming a directory that holds no finished run."""
    runs = []
    for path in directories:
        directory = RunDirectory(path)
        if not directory.report_file.is_file():
            raise MgrdError(f"{path} holds no report.json: give the directory of a run that has ended (its run.dir)")
        try:
            report = json.loads(directory.report_file.read_text(encoding="utf-8"))
            updates = directory.read_updates()
        except ValueError as error:
            raise MgrdError(f"{path}: report.json or updates.jsonl is damaged ({error}); run it again") from error
        if missing := _missing(report):
            raise MgrdError(
                f"{directory.report_file} is no report of a run, it lacks {', '.join(missing)}: give directories of runs (their run.dir); "
                "an evaluation has its own table.md"
            )
        runs.append(FinishedRun(path.absolute().name, report, updates))
    return runs


def _missing(report: Any) -> list[str]:
    """What a run's report has and this one has not."""
    found = report.keys() if isinstance(report, dict) else set()
    recipe = ("curve", "experiment") if "curve" in found or "eval" not in found else ("eval",)
    return [key for key in (*IN_EVERY_REPORT, *recipe) if key not in found]


def recipe_of(runs: list[FinishedRun]) -> str:
    """`mgrd` for runs that have a curve, else `rl`. Raises MgrdError for a list with both: they have no figures in common."""
    found = {"mgrd" if "curve" in run.report else "rl": run.name for run in runs}
    if len(found) > 1:
        raise MgrdError(
            f"{found['mgrd']} is a run of the recipe mgrd and {found['rl']} of the recipe rl: one has a curve, the other before and after. "
            "Give runs of one recipe at a time"
        )
    return next(iter(found))


def table(runs: list[FinishedRun]) -> list[list[str]]:
    """Rows of text, the first one the header: before → after RL, per cent, standard errors where there are any."""
    rows = [["run", "seed", *(title for _, title in COLUMNS), "policy updates", "minutes"]]
    for run in runs:
        before, after = run.report["eval"]["before"], run.report["eval"]["after"]
        cells = []
        for key, _ in COLUMNS:
            error = {"sampled": "stderr", "greedy": "greedy_stderr"}.get(key)
            cells.append(f"{_percent(before, key, error)} → {_percent(after, key, error)}")
        minutes = f"{run.report['seconds'] / 60:.1f}"
        rows.append([run.name, str(run.report["seed"]), *cells, str(run.report["policy_updates"]), minutes])
    return rows


def change_table(runs: list[FinishedRun]) -> list[list[str]]:
    """Rows of text, the first one the header: what RL changed, in percentage points."""
    rows = [
        ["run", *(f"{title}, change" for _, title in COLUMNS), "think present after", "largest probe difference (nats)"]
    ]
    for run in runs:
        before, after = run.report["eval"]["before"], run.report["eval"]["after"]
        changes = [_change(before.get(key), after.get(key)) for key, _ in COLUMNS]
        largest = run.report["probe_max_abs_diff"]
        probe = NONE if largest is None else f"{largest:.1e}"
        rows.append([run.name, *changes, _percent(after, "think_present", None), probe])
    return rows


def markdown(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(lines) + "\n"


def write_folder(runs: list[FinishedRun], out: Path) -> None:
    """`out`/table.md, `out`/updates.png, and per run what `copy_run` writes."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text(markdown(table(runs)) + "\n" + markdown(change_table(runs)), encoding="utf-8")
    for run in runs:
        copy_run(run, out, run.name)
    _plot(runs, out / "updates.png")


def copy_run(run: FinishedRun, out: Path, name: str) -> None:
    """`out`/<name>.json (the run's report) and <name>.updates.jsonl (of every policy update the figures that plots and sentinels look
    at), which a run without policy updates lacks. Paths in it begin at the run's directory: where that lay means nothing elsewhere."""
    write_atomic(out / f"{name}.json", json.dumps(without_places(run.report, run.name), indent=1) + "\n")
    if run.updates:
        write_atomic(
            out / f"{name}.updates.jsonl", "".join(json.dumps(short_update(record)) + "\n" for record in run.updates)
        )


def short_update(record: Mapping[str, Any]) -> dict[str, Any]:
    """A policy update's record with the figures worth keeping, to six digits."""
    metrics = record["metrics"]
    kept = {key: metrics[key] for key in kept_metrics() if metrics.get(key) is not None}
    head = {key: record[key] for key in ("update", "stage", "version", ALARM) if key in record}
    return plain(head | {"metrics": {key: float(f"{value:.6g}") for key, value in kept.items()}})


def kept_metrics() -> tuple[str, ...]:
    """What plots draw and sentinels watch."""
    watched = (metric for sentinel in SENTINELS for metric in sentinel.metrics)
    return tuple(dict.fromkeys((*PLOTTED, *(key for key, _ in UPDATE_PANELS), *watched)))


def without_places(value: Any, run: str) -> Any:
    """Strings that are absolute paths from the directory `run` on; of those elsewhere the last part."""
    if isinstance(value, dict):
        return {key: without_places(item, run) for key, item in value.items()}
    if isinstance(value, list):
        return [without_places(item, run) for item in value]
    if not isinstance(value, str) or not value.startswith("/"):
        return value
    parts = Path(value).parts
    return "/".join(parts[len(parts) - 1 - parts[::-1].index(run) :] if run in parts else parts[-1:])


def _plot(runs: list[FinishedRun], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(PLOTTED), figsize=(4 * len(PLOTTED), 3.2), layout="constrained")
    for axis, key in zip(axes, PLOTTED, strict=True):
        for run in runs:
            points = [(r["update"], r["metrics"][key]) for r in run.updates if key in r["metrics"]]
            axis.plot([x for x, _ in points], [y for _, y in points], label=run.name, linewidth=1)
        axis.set_title(key)
        axis.set_xlabel("policy update")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _percent(side: dict[str, Any], key: str, error: str | None) -> str:
    value = side.get(key)
    if value is None:
        return NONE
    spread = f" ±{100 * side[error]:.1f}" if error and side.get(error) else ""
    return f"{100 * value:.1f}{spread}"


def _change(before: float | None, after: float | None) -> str:
    return NONE if before is None or after is None else f"{100 * (after - before):+.1f}"

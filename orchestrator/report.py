"""What a run did, as a file and as a table.

Neighbours: `controller` collects it, `cli` prints it. Invariant: the file holds what the run measured, nothing typed in.
"""

from __future__ import annotations

import json
import math
from typing import Any

from rich.console import Console
from rich.table import Table

from orchestrator.plain import plain
from orchestrator.rundir import RunDirectory, write_atomic


def write_report(directory: RunDirectory, report: dict[str, Any]) -> None:
    write_atomic(directory.report_file, json.dumps(plain(report), indent=1) + "\n")


def phase_seconds(updates: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds by phase over all policy updates (`seconds/generate` → `generate`)."""
    out: dict[str, float] = {}
    for record in updates:
        for name, value in record["metrics"].items():
            if name.startswith("seconds/"):
                phase = name.removeprefix("seconds/")
                out[phase] = out.get(phase, 0.0) + value
    return out


def print_report(console: Console, report: dict[str, Any]) -> None:
    """The closing tables: what was measured, then seconds by stage and phase."""
    if "curve" in report:
        _print_curve(console, report["curve"])
    else:
        _print_before_after(console, report)
    updates = report["reward"]
    if updates:
        console.print(
            f"reward per policy update: first ten {updates['first_ten']:.3f}, last ten {updates['last_ten']:.3f}"
        )
    table = Table(title="Where the time went", title_justify="left")
    table.add_column("stage or phase")
    table.add_column("seconds", justify="right")
    for stage in report["stages"]:
        table.add_row(stage["name"], f"{stage['seconds']:.1f}")
    table.add_section()
    for phase, seconds in report["phase_seconds"].items():
        table.add_row(f"policy updates: {phase}", f"{seconds:.1f}")
    console.print(table)
    console.print(
        f"{report['policy_updates']} policy updates, {report['invalid_verdicts']} invalid verdicts, "
        f"largest engine/trainer difference {report['probe_max_abs_diff']:.1e} nats, {report['seconds']:.0f} s in all"
    )
    console.print(f"kernels     {report.get('kernels') or 'not recorded'}", highlight=False, soft_wrap=True)
    for death in report["trainer_deaths"]:
        console.print(
            f"the trainer was started again in {death['stage']}: rank {death['rank']} {death['failure']} in {death['phase']!r}",
            highlight=False,
        )
    console.print(f"model       {report['model']}\ncheckpoint  {report['checkpoint']}")
    console.print(f"MLflow      run {report['mlflow']['run_id']}; open it with `mgrd ui`")


def _print_before_after(console: Console, report: dict[str, Any]) -> None:
    """Accuracy by task before and after RL."""
    before, after = report["eval"].get("before"), report["eval"].get("after")
    if before and after:
        table = Table(title="Held-out accuracy, before and after RL", title_justify="left")
        for column in ("task", "sampled before", "after", "greedy before", "after", "true perceptions before", "after"):
            table.add_column(column, justify="left" if column == "task" else "right")
        for task in sorted(before["by_task"]):
            one, two = before["by_task"][task], after["by_task"].get(task, {})
            table.add_row(
                task, *(_percent(x.get(key)) for key in ("sampled", "greedy", "true_perceptions") for x in (one, two))
            )
        table.add_section()
        table.add_row(
            "all",
            *(
                f"{_percent(x[key])}{f' ±{100 * x[error]:.1f}' if error else ''}"
                for key, error in (("sampled", "stderr"), ("greedy", "greedy_stderr"), ("true_perceptions", ""))
                for x in (before, after)
            ),
        )
        console.print(table)
        console.print(
            f"think present {_percent(before['think_present'])} → {_percent(after['think_present'])}, "
            f"think length {before['think_tokens']:.1f} → {after['think_tokens']:.1f} tokens"
        )


def _print_curve(console: Console, points: list[dict[str, Any]]) -> None:
    """A row for every part of the recipe."""
    table = Table(title="Held out, after every part of the recipe", title_justify="left")
    columns = (
        "sampled",
        "greedy",
        "true_perceptions",
        "audio_contribution",
        "think_tokens",
        "self_cognition_error",
        "text_greedy",
    )
    table.add_column("point")
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right")
    for point in points:
        cells = [f"{point[key]:.1f}" if key == "think_tokens" else _percent(point.get(key)) for key in columns]
        table.add_row(point["stage"], *cells)
    console.print(table)


def _percent(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f}"

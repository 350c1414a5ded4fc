"""The recipe's curve as a table and a picture: one run, or several arms over several seeds.

Neighbours: `run_report` measured the points, `controller` logs what is written here, `mgrd report` compares runs with it. Invariant: every
number comes from a report that a run wrote.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.report import plain
from orchestrator.rundir import write_atomic

PANELS = (
    ("sampled", "held-out accuracy, sampled", "stderr"),
    ("greedy", "held-out accuracy, greedy", "greedy_stderr"),
    ("true_perceptions", "stated perceptions that are true", ""),
    ("audio_contribution", "audio contribution", "audio_contribution_stderr"),
    ("think_tokens", "think length, tokens", ""),
    ("self_cognition_error", "self-cognition error", "self_cognition_stderr"),
)
COLORS = ("#0b6e4f", "#c1502e", "#3a5a98", "#8a6d1d", "#6b4a8b", "#555555")


def write_curve(report: Mapping[str, Any], folder: Path) -> None:
    """curve.json, curve.md and curve.png of one run."""
    folder.mkdir(parents=True, exist_ok=True)
    short = {
        "curve": report["curve"],
        "seconds": report["seconds"],
        "seed": report["seed"],
        "experiment": report["experiment"],
    }
    write_atomic(folder / "curve.json", json.dumps(plain(short), indent=1) + "\n")
    write_atomic(folder / "curve.md", table([report]))
    plot({report["experiment"]: [report]}, folder / "curve.png")


def table(reports: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row for every point of every run, per cent with standard errors."""
    rows = ["| run | seed | point | " + " | ".join(title for _, title, _ in PANELS) + " |"]
    rows.append("|" + "---|" * (3 + len(PANELS)))
    for report in reports:
        for point in report["curve"]:
            cells = [_cell(point, key, error) for key, _, error in PANELS]
            rows.append(f"| {report['experiment']} | {report['seed']} | {point['stage']} | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def plot(arms: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """One panel a measure; a thin line a seed, a thick one the mean of an arm over its seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 3, figsize=(13, 7), layout="constrained")
    stages = list(dict.fromkeys(p["stage"] for reports in arms.values() for r in reports for p in r["curve"]))
    for axis, (key, title, error) in zip(axes.flat, PANELS, strict=True):
        for color, (name, reports) in zip(_cycle(len(arms)), arms.items(), strict=True):
            series = [{p["stage"]: p.get(key) for p in r["curve"] if p.get(key) is not None} for r in reports]
            for one in series:
                axis.plot([stages.index(s) for s in one], list(one.values()), color=color, alpha=0.35, linewidth=1)
            shared = [s for s in stages if all(s in one for one in series)]
            means = [sum(one[s] for one in series) / len(series) for s in shared]
            at = [stages.index(s) for s in shared]
            if len(reports) == 1 and error:
                bars = [p.get(error) or 0.0 for p in reports[0]["curve"] if p["stage"] in shared]
                axis.errorbar(at, means, yerr=bars, color=color, linewidth=2, marker="o", label=name, capsize=3)
            else:
                axis.plot(at, means, color=color, linewidth=2.4, marker="o", label=name)
        axis.set_title(title)
        axis.set_xticks(range(len(stages)), stages, rotation=20)
        axis.grid(alpha=0.3)
    axes.flat[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _cycle(count: int) -> list[str]:
    return [COLORS[i % len(COLORS)] for i in range(count)]


def _cell(point: Mapping[str, Any], key: str, error: str) -> str:
    value = point.get(key)
    if value is None or math.isnan(value):
        return "–"
    if key == "think_tokens":
        return f"{value:.1f}"
    spread = f" ±{100 * point[error]:.1f}" if error and point.get(error) else ""
    return f"{100 * value:.1f}{spread}"

"""The recipe's curve as a table and a picture: one run, or several arms over several seeds.

Neighbours: `run_report` measured the points, `controller` logs what is written here, `comparison` and `paper` draw arms with it.
Invariant: every number comes from a report or a record of policy updates that a run wrote.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.plain import plain
from orchestrator.rundir import write_atomic

PANELS = (
    ("sampled", "held-out accuracy, sampled", "stderr"),
    ("greedy", "held-out accuracy, greedy", "greedy_stderr"),
    ("true_perceptions", "stated perceptions that are true", ""),
    ("audio_contribution", "audio contribution", "audio_contribution_stderr"),
    ("think_tokens", "think length, tokens", ""),
    ("self_cognition_error", "self-cognition error", "self_cognition_stderr"),
)
UPDATE_PANELS = (
    ("reward/mean", "reward"),
    ("accuracy", "accuracy on the batch"),
    ("think/tokens", "think length, tokens"),
    ("think/true_perceptions", "stated perceptions that are true"),
    ("policy/entropy", "entropy, nats a token"),
)
COLORS = ("#0b6e4f", "#c1502e", "#3a5a98", "#8a6d1d", "#6b4a8b", "#555555")
SMOOTH = 5  # policy updates in the running mean of thick lines
DPI = 110

Series = Mapping[Any, float]


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
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(2, 3, figsize=(13, 7), layout="constrained")
    for axis, (key, title, error) in zip(axes.flat, PANELS, strict=True):
        draw_points(axis, arms, key, error)
        axis.set_title(title)
    axes.flat[0].legend(fontsize=8)
    figure.savefig(path, dpi=DPI)
    pyplot.close(figure)


def plot_updates(arms: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], path: Path) -> None:
    """arms[name][seed] are records of policy updates. Thin: seeds; thick: the mean over seeds, smoothed."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(1, len(UPDATE_PANELS), figsize=(4 * len(UPDATE_PANELS), 3.6), layout="constrained")
    for axis, (key, title) in zip(axes, UPDATE_PANELS, strict=True):
        draw_updates(axis, arms, key)
        axis.set_title(title)
    if axes[0].get_legend_handles_labels()[0]:
        axes[0].legend(fontsize=8)
    figure.suptitle(
        f"thin: seeds; thick: mean over seeds, running mean of {SMOOTH} policy updates", fontsize=9, color="#555555"
    )
    figure.savefig(path, dpi=DPI)
    pyplot.close(figure)


def draw_points(axis: Any, arms: Mapping[str, Sequence[Mapping[str, Any]]], key: str, error: str = "") -> None:
    """A measure over the points of the curve; error bars where an arm has one run and the measure a standard error."""
    stages = list(dict.fromkeys(p["stage"] for reports in arms.values() for r in reports for p in r["curve"]))
    for color, (name, reports) in zip(colors(len(arms)), arms.items(), strict=True):
        series = [
            {stages.index(p["stage"]): float(p[key]) for p in r["curve"] if p.get(key) is not None} for r in reports
        ]
        mean = mean_series(series)
        if len(reports) == 1 and error:
            bars = [p.get(error) or 0.0 for p in reports[0]["curve"] if stages.index(p["stage"]) in mean]
            axis.errorbar(
                list(mean), list(mean.values()), yerr=bars, color=color, linewidth=2, marker="o", label=name, capsize=3
            )
            continue
        for one in series:
            axis.plot(list(one), list(one.values()), color=color, alpha=0.35, linewidth=1)
        axis.plot(list(mean), list(mean.values()), color=color, linewidth=2.4, marker="o", label=name)
    axis.set_xticks(range(len(stages)), stages, rotation=20)
    axis.grid(alpha=0.3)


def draw_updates(axis: Any, arms: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], key: str) -> None:
    """A metric over policy updates."""
    for color, (name, runs) in zip(colors(len(arms)), arms.items(), strict=True):
        series = [
            {r["update"]: float(r["metrics"][key]) for r in records if r["metrics"].get(key) is not None}
            for records in runs
        ]
        for one in series:
            axis.plot(list(one), list(one.values()), color=color, alpha=0.3, linewidth=0.8)
        mean = running(mean_series(series), SMOOTH)
        if mean:
            axis.plot(list(mean), list(mean.values()), color=color, linewidth=2.4, label=name)
    axis.set_xlabel("policy update")
    axis.grid(alpha=0.3)


def mean_series(series: Sequence[Series]) -> dict[Any, float]:
    """Mean at every place that all of them have, in the order of the first."""
    if not series:
        return {}
    shared = [at for at in series[0] if all(at in one for one in series)]
    return {at: sum(one[at] for one in series) / len(series) for at in shared}


def running(series: Series, window: int) -> dict[Any, float]:
    """At every place the mean of the last `window` values (of all so far where there are fewer)."""
    places, values = list(series), list(series.values())
    out = {}
    for i, at in enumerate(places):
        recent = values[max(0, i + 1 - window) : i + 1]
        out[at] = sum(recent) / len(recent)
    return out


def colors(count: int) -> list[str]:
    return [COLORS[i % len(COLORS)] for i in range(count)]


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _cell(point: Mapping[str, Any], key: str, error: str) -> str:
    value = point.get(key)
    if value is None or math.isnan(value):
        return "–"
    if key == "think_tokens":
        return f"{value:.1f}"
    spread = f" ±{100 * point[error]:.1f}" if error and point.get(error) else ""
    return f"{100 * value:.1f}{spread}"

"""Accuracy by task, accuracy by think length and the lengths themselves, as pictures beside report.json.

Neighbours: `run` calls it with the report; MLflow keeps the files. Invariant: every point comes from the report, with its interval.
"""

from __future__ import annotations

import math
from pathlib import Path

from orchestrator.evaluation.report import EvaluationReport
from orchestrator.evaluation.statistics import Estimate

DPI = 110


def write_plots(report: EvaluationReport, folder: Path) -> list[Path]:
    """`accuracy_by_task.png` and `accuracy_by_think_length.png`; the files that were written."""
    import matplotlib

    matplotlib.use("Agg")
    return [
        _by_task(report, folder / "accuracy_by_task.png"),
        _by_length(report, folder / "accuracy_by_think_length.png"),
    ]


def _by_task(report: EvaluationReport, path: Path) -> Path:
    from matplotlib import pyplot

    rows = [(name, group.sampled, group.greedy) for name, group in report.by_task.items()]
    rows.append(("all", report.sampled, report.greedy))
    figure, axis = pyplot.subplots(figsize=(7, 1.2 + 0.36 * len(rows)), layout="constrained")
    for place, (_, sampled, greedy) in enumerate(reversed(rows)):
        for shift, estimate, colour, label in ((0.14, sampled, "C0", "sampled"), (-0.14, greedy, "C1", "greedy")):
            if math.isfinite(estimate.value):
                axis.errorbar(
                    100 * estimate.value,
                    place + shift,
                    xerr=_bars(estimate),
                    fmt="o",
                    color=colour,
                    markersize=4,
                    capsize=2,
                    label=label if not place else None,
                )
    axis.set_yticks(range(len(rows)), [f"{name} ({e.questions})" for name, e, _ in reversed(rows)])
    axis.set_xlim(-2, 102)
    axis.set_xlabel("accuracy, % (95 % interval over questions)")
    axis.grid(axis="x", alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8, ncols=2, loc="lower right", bbox_to_anchor=(1, 1), frameon=False)
    figure.savefig(path, dpi=DPI)
    pyplot.close(figure)
    return path


def _by_length(report: EvaluationReport, path: Path) -> Path:
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    bins = report.by_length
    if bins:
        left.errorbar(
            [b.mean_tokens for b in bins],
            [100 * b.accuracy.value for b in bins],
            yerr=[[_bars(b.accuracy)[side][0] for b in bins] for side in (0, 1)],
            fmt="o-",
            markersize=4,
            capsize=2,
        )
    left.set_ylim(-2, 102)
    left.set_xlabel("think length, tokens (quantile bins)")
    left.set_ylabel("accuracy, %")
    left.grid(alpha=0.3)
    effect = report.longer_thinking
    if effect.pairs:
        d = effect.difference
        left.set_title(
            f"within questions: longer − shorter {100 * d.value:+.1f} [{100 * d.low:+.1f}, {100 * d.high:+.1f}] points",
            fontsize=9,
        )
    lengths = report.think_tokens
    if lengths.counts:
        right.stairs(lengths.counts, lengths.edges, fill=True, alpha=0.6)
    right.set_xlabel("think length, tokens")
    right.set_ylabel("samples")
    right.grid(alpha=0.3)
    figure.savefig(path, dpi=DPI)
    pyplot.close(figure)
    return path


def _bars(estimate: Estimate) -> list[list[float]]:
    """Distances down and up, per cent, as matplotlib wants them."""
    return [[100 * (estimate.value - estimate.low)], [100 * (estimate.high - estimate.value)]]

"""A stage under watch, and what an alarm leaves for a person: figures, a plot, the trajectories of the policy update that raised it.

Neighbours: `sentinels` raises alarms, `stages.reinforce` pauses the run on them. Invariants: `paused.json` is in the run's directory
exactly while the run is paused by a sentinel; the same files are artifacts of the stage's MLflow run and stay there; an alarm is
noted in the record of its policy update, so that a resumed run knows it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.checkpoints import CHECKPOINT_PREFIX
from orchestrator.config.schema import SentinelConfig
from orchestrator.errors import RunPaused
from orchestrator.gallery import gallery_html
from orchestrator.plain import plain
from orchestrator.rundir import write_atomic
from orchestrator.sentinels import ALARM, Alarm, Record, watch
from orchestrator.stages.scoring import Scored
from orchestrator.tracking import RunTracker

PAUSED_FILE, PLOT_FILE = "paused.json", "paused.png"
TRAJECTORIES_SHOWN = 12


class StageWatch:
    """The sentinels of one stage. records: of its policy updates so far, in order; an alarm of theirs is not raised again.

    A stage that begins or goes on is paused no more: `paused.json` of an earlier pause is taken away.
    """

    def __init__(self, records: Sequence[dict[str, Any]], config: SentinelConfig, stage: str, root: Path) -> None:
        self.records = list(records)
        self.config = config
        self.stage = stage
        self.root = root
        self.alarm: Alarm | None = None
        clear(root)

    def note(self, record: dict[str, Any]) -> None:
        """Look at a policy update's record before it is written; an alarm is noted in it, as `alarm`, and kept in `self.alarm`."""
        self.records.append(record)
        self.alarm = watch(self.records, self.config)
        if self.alarm:
            record[ALARM] = {"name": self.alarm.name, "reason": self.alarm.reason}

    def pause(self, scored: Sequence[Scored], tracker: RunTracker) -> RunPaused:
        """The error to raise on `self.alarm`, when a checkpoint of the update exists; its evidence is left before that, so that a
        process that dies in between does the update, and the alarm, again."""
        assert self.alarm is not None
        return pause(
            self.alarm, self.records, scored, config=self.config, stage=self.stage, root=self.root, tracker=tracker
        )


def evidence(alarm: Alarm, records: Sequence[Record], config: SentinelConfig, stage: str) -> dict[str, Any]:
    """Plain values: the alarm, its curves as [policy update, value] over all of the stage's records, thresholds, where to go on."""
    update = alarm.evidence["update"]
    return {
        "state": "paused",
        "stage": stage,
        "update": update,
        "sentinel": alarm.name,
        "reason": alarm.reason,
        "evidence": plain(alarm.evidence, str),
        "series": plain({metric: series(records, metric) for metric in alarm.evidence["metrics"]}, str),
        "thresholds": dataclasses.asdict(config),
        "checkpoint": f"{CHECKPOINT_PREFIX}{update:06d}",
    }


def series(records: Sequence[Record], metric: str) -> list[list[float]]:
    return [[r["update"], r["metrics"][metric]] for r in records if metric in r["metrics"]]


def pause(
    alarm: Alarm,
    records: Sequence[Record],
    scored: Sequence[Scored],
    *,
    config: SentinelConfig,
    stage: str,
    root: Path,
    tracker: RunTracker,
) -> RunPaused:
    """Leave the evidence in the run's directory and with the stage's MLflow run; returns the error to raise.

    records: of the stage, the one that raised the alarm last; scored: the trajectories of that policy update. The caller raises
    it once a checkpoint of the update exists: `mgrd resume` goes on from there.
    """
    left = evidence(alarm, records, config, stage)
    text = json.dumps(left, indent=1, ensure_ascii=False)
    title = f"Policy update {left['update']}: {alarm.name}"
    plot(left, root / PLOT_FILE)
    folder = f"sentinels/update_{left['update']:06d}"
    tracker.text(f"{folder}/evidence.json", text)
    tracker.artifact(root / PLOT_FILE, f"{folder}/series.png")
    tracker.html(f"{folder}/trajectories.html", gallery_html(title, scored, per_page=TRAJECTORIES_SHOWN))
    tracker.tags({"mgrd.alarm": f"{alarm.name} at policy update {left['update']}"})
    write_atomic(root / PAUSED_FILE, text + "\n")
    return RunPaused(
        f"{stage}, policy update {left['update']}, sentinel {alarm.name!r}: {alarm.reason}. {alarm.evidence['advice']} "
        f"The figures are in {root / PAUSED_FILE}, plot and sampled trajectories in MLflow under {folder}. Nothing is lost: go on with "
        f"`mgrd resume {root}`, with changed keys if you like (docs/SENTINELS.md)"
    )


def clear(root: Path) -> None:
    """The run goes on: it is paused no more."""
    for name in (PAUSED_FILE, PLOT_FILE):
        (root / name).unlink(missing_ok=True)


def plot(left: dict[str, Any], path: Path) -> None:
    """Each curve of `evidence` in a panel, with what it was held against and its threshold where these are on the curve's scale."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    curves = {metric: points for metric, points in left["series"].items() if points}
    figure, axes = pyplot.subplots(
        1, max(1, len(curves)), figsize=(4.2 * max(1, len(curves)), 3.2), layout="constrained", squeeze=False
    )
    figure.suptitle(f"{left['stage']}: {left['reason']}", fontsize=9)
    for axis, (metric, points) in zip(axes[0], curves.items(), strict=False):
        finite = [(u, v) for u, v in points if isinstance(v, int | float)]
        axis.plot([u for u, _ in finite], [v for _, v in finite], linewidth=1, marker=".", markersize=4)
        figures = left["evidence"].get(metric, {})
        for name in ("now", "best", "before"):
            if finite and isinstance(figures.get(name), int | float):
                axis.axhline(figures[name], linewidth=0.8, linestyle="--" if name == "now" else ":", color="0.3")
                axis.annotate(name, (finite[0][0], figures[name]), fontsize=7, va="bottom")
        axis.set_title(metric, fontsize=9)
        axis.set_xlabel("policy update")
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)

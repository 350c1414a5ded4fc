"""A job's run, told to the store: stages, policy updates, samples, notes; and back, what its user wants of it.

Neighbours: `reporter` delivers, `job` makes one of these; the run calls it at its boundaries. Invariants: the run never waits for Redis
longer than `DRAIN_S` at a boundary; what is told and when changes no number of the run; estimates go by this attempt's own pace.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from orchestrator.errors import RunPaused
from orchestrator.service.event_words import in_words
from orchestrator.service.messages import Progress, SampledTrajectory, Wanted
from orchestrator.service.reporter import Report, Reporter
from orchestrator.stages.scoring import Scored

log = logging.getLogger(__name__)

SAMPLES_AN_UPDATE = 6
PACE_OF = 10  # last policy updates that the estimate goes by
DRAIN_S = 2.0


class ReportingObserver:
    """progress: what an earlier attempt had reached. See `orchestrator.observer.Observer`."""

    def __init__(self, reporter: Reporter, progress: Progress) -> None:
        self._reporter = reporter
        self._progress = dataclasses.replace(progress, stage="start", eta_s=None, at=time.time())
        self._paces: deque[float] = deque(maxlen=PACE_OF)
        self._done: set[str] = set()
        self._tell("stage", {"stage": "start", "state": "began"})

    def tracked(self, run_id: str, tracking_uri: str) -> None:
        url = f"{re.sub('//.*@', '//', tracking_uri).rstrip('/')}/#/runs/{run_id}"  # a link for everybody: without a password
        data = {"text": "tracked in MLflow", "mlflow_run": run_id, "mlflow_url": url}
        self._reporter.put(Report("note", data, mlflow_run=run_id, mlflow_url=url))

    def planned(self, stages: Sequence[str], updates: int) -> None:
        self._change(stages_total=len(stages), updates_total=updates, plan=tuple(stages))

    def stage_began(self, stage: str) -> None:
        self._change(stage=stage)
        self._tell("stage", {"stage": stage, "state": "began"})

    def stage_ended(self, stage: str, seconds: float, *, before: bool) -> None:
        self._done.add(stage)
        self._change(stages_done=len(self._done))
        if not before:
            self._tell("stage", {"stage": stage, "state": "ended", "seconds": seconds})

    def updated(self, record: dict[str, Any]) -> None:
        metrics: dict[str, float] = record["metrics"]
        seconds = sum(value for name, value in metrics.items() if name.startswith("seconds/"))
        self._paces.append(seconds)
        left = max(0, self._progress.updates_total - record["update"])
        self._change(
            update=record["update"],
            reward=metrics.get("reward/mean"),
            accuracy=metrics.get("accuracy"),
            tokens_per_s=metrics.get("generated_tokens_per_second"),
            invalid_share=metrics.get("invalid_share"),
            reward_p95_s=slowest_reward(metrics),
            eta_s=left * sum(self._paces) / len(self._paces),
        )
        self._tell("update", dict(record))

    def sampled(self, stage: str, update: int, scored: Sequence[Scored]) -> None:
        stride = max(1, len(scored) // SAMPLES_AN_UPDATE)
        chosen = list(scored)[::stride][:SAMPLES_AN_UPDATE]
        self._reporter.put(Report("", {}, samples=tuple(shown(stage, update, s) for s in chosen)))

    def note(self, text: str) -> None:
        self._reporter.put(Report("note", {"text": text}))

    def pause(self) -> RunPaused | None:
        """What was asked last, as far as Redis tells in time."""
        self._reporter.drain(DRAIN_S)
        if self._reporter.wanted is not Wanted.PAUSE:
            return None
        return RunPaused(f"paused by {self._reporter.asker or 'its user'}")

    def _change(self, **values: Any) -> None:
        self._progress = dataclasses.replace(self._progress, at=time.time(), **values)

    def _tell(self, kind: str, data: dict[str, Any]) -> None:
        log.info("%s %s", kind, in_words(kind, data))
        self._reporter.put(Report(kind, data, progress=self._progress))


def slowest_reward(metrics: dict[str, float]) -> float | None:
    """Seconds, 95th percentile of the slowest reward function over all samples of a policy update."""
    found = [
        value
        for name, value in metrics.items()
        if name.startswith("reward/") and name.endswith("/seconds_p95") and name.count("/") == 2
    ]
    return max(found) if found else None


def shown(stage: str, update: int, scored: Scored) -> SampledTrajectory:
    """One sampled response as people look at it."""
    question, sample, verdict = scored.question, scored.sample, scored.verdict
    return SampledTrajectory(
        id=scored.trajectory.id,
        update=update,
        stage=stage,
        question=question.prompt,
        choices=tuple(question.choices),
        answer=question.answer,
        reasoning=sample.reasoning,
        reply=sample.reply,
        correct=scored.correct,
        score=verdict.score,
        reason=verdict.reason,
        components=dict(verdict.components),
        clips=tuple((clip.sha256, clip.path) for clip in question.clips),
    )

"""What a run reports at its end, from what its stages measured.

Neighbours: `controller` writes it, `report` prints it, `curve` plots it. Invariant: every number is one that a stage or a policy update
recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.config.schema import ExperimentConfig
from orchestrator.manifest import Manifest
from orchestrator.report import phase_seconds
from orchestrator.rundir import RunDirectory

CURVE = (
    "sampled", "stderr", "greedy", "greedy_stderr", "true_perceptions", "stated_perceptions", "audio_contribution",
    "audio_contribution_stderr", "audio_contribution_corrected", "think_present", "think_tokens", "truncated",
    "self_cognition_error", "self_cognition_stderr",
    "text_greedy", "text_stderr", "by_think_length",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RunFacts:
    """Everything around the stages that a report needs."""

    config: ExperimentConfig
    state: Mapping[str, Any]
    directory: RunDirectory
    tracking_uri: str
    manifests: Mapping[str, Manifest]


def rl_report(facts: RunFacts, results: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Of the recipe `rl`: held out before and after RL."""
    before = results["evaluate_before"]
    after = results.get("evaluate_after", before)
    report = _common(facts, results)
    report["eval"] = {"before": before, "after": after}
    report["select"] = {k: v for k, v in results.get("select", {}).items() if k != "pool"}
    report["invalid_verdicts"] += before["invalid_verdicts"] + after["invalid_verdicts"]
    return report


def mgrd_report(facts: RunFacts, results: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Of the recipe `mgrd`: the curve over its parts, and the counts at every filter."""
    points = [
        (name.removeprefix("evaluate."), result) for name, result in results.items() if name.startswith("evaluate.")
    ]
    report = _common(facts, results)
    report["curve"] = [
        {"stage": name, **{key: point[key] for key in CURVE if key in point}, "by_task": point["by_task"]}
        for name, point in points
    ]
    report["counts"] = {name: manifest.counts for name, manifest in facts.manifests.items()}
    report["invalid_verdicts"] += sum(point["invalid_verdicts"] for _, point in points)
    return report


def report_metrics(report: Mapping[str, Any]) -> dict[str, float]:
    """Figures of the whole run for its MLflow page."""
    if "eval" in report:
        return {
            f"{side}/{key}": value
            for side in ("before", "after")
            for key, value in report["eval"][side].items()
            if isinstance(value, float)
        }
    return {
        f"{point['stage']}/{key}": value
        for point in report["curve"]
        for key, value in point.items()
        if isinstance(value, float)
    }


def _common(facts: RunFacts, results: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    updates = facts.directory.read_updates()
    rewards = [record["metrics"]["reward/mean"] for record in updates]
    probes = [r["metrics"]["probe/max_abs_diff"] for r in updates if "probe/max_abs_diff" in r["metrics"]]
    state = facts.state
    checkpoint = state.get("checkpoint")
    return {
        "status": "succeeded",
        "recipe": facts.config.pipeline.recipe,
        "experiment": facts.config.run.name,
        "seed": facts.config.run.seed,
        "seconds": state["seconds"],
        "stages": [{"name": name, "seconds": seconds} for name, seconds in state["stage_seconds"].items()],
        "policy_updates": len(updates),
        "kernels": state.get("kernels", ""),
        "phase_seconds": phase_seconds(updates),
        "reward": {"first_ten": _mean(rewards[:10]), "last_ten": _mean(rewards[-10:])} if rewards else {},
        "invalid_verdicts": round(sum(r["metrics"]["invalid_share"] * r["metrics"]["trajectories"] for r in updates)),
        "probe_max_abs_diff": max(probes, default=0.0),
        "trainer_deaths": state.get("trainer_deaths", []),
        "mlflow": {"tracking_uri": facts.tracking_uri, "run_id": state["mlflow_run_id"]},
        "checkpoint": str(facts.directory.checkpoints.path(checkpoint)) if checkpoint else "",
        "model": results["export"]["path"],
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0

"""Small reports of runs of the whole recipe, made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

EFFECT = {
    "value": 0.1,
    "low": 0.02,
    "high": 0.2,
    "questions": 40,
    "pairs": 90,
    "longer_better": 20,
    "shorter_better": 11,
    "verdict": "helps",
}
BIN = {"shortest": 0, "longest": 9, "samples": 20, "truncated": 0.0}


def point(stage: str, sampled: float, **over: Any) -> dict[str, Any]:
    bins = [
        BIN | {"mean_tokens": 5.0, "accuracy": sampled, "low": sampled - 0.1, "high": sampled + 0.1},
        BIN | {"mean_tokens": 15.0, "accuracy": sampled + 0.05, "low": sampled, "high": sampled + 0.1},
    ]
    return {
        "stage": stage,
        "sampled": sampled,
        "stderr": 0.01,
        "greedy": sampled + 0.1,
        "true_perceptions": 0.4,
        "think_tokens": 12.5,
        "self_cognition_error": 0.05,
        "by_task": {"word": {"sampled": sampled}},
        "by_think_length": {
            "bins": bins,
            "longer_minus_shorter": EFFECT,
            "longer_minus_shorter_thinking": EFFECT | {"value": sampled / 10},
        },
    } | over


def run_folder(root: Path, experiment: str, seed: int, values: dict[str, float], **over: Any) -> Path:
    """A finished run of the recipe mgrd; values: sampled accuracy by point."""
    folder = root / "runs" / f"{experiment}-{seed}"
    folder.mkdir(parents=True)
    report = {
        "experiment": experiment,
        "recipe": "mgrd",
        "seed": seed,
        "seconds": 100.0 * seed,
        "policy_updates": 3,
        "curve": [point(stage, value) for stage, value in values.items()],
        "model": f"{folder}/model",
    }
    (folder / "report.json").write_text(json.dumps(report | over))
    records = [
        {"update": u, "metrics": {"reward/mean": 0.1 * u, "accuracy": 0.2, "think/tokens": 10.0 + u}} for u in (1, 2, 3)
    ]
    (folder / "updates.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def rl_folder(root: Path, experiment: str, seed: int, **over: Any) -> Path:
    """A finished run of the recipe rl without policy updates."""
    side = {k: v for k, v in point("", 0.6).items() if k not in ("stage", "by_task")}
    side |= {"greedy_stderr": 0.02, "think_present": 1.0}
    report = {"eval": {"before": side, "after": side}, "policy_updates": 0, "probe_max_abs_diff": 0.0, "recipe": "rl"}
    folder = run_folder(root, experiment, seed, {})
    found = {k: v for k, v in json.loads((folder / "report.json").read_text()).items() if k != "curve"}
    (folder / "report.json").write_text(json.dumps(found | report | over))
    (folder / "updates.jsonl").unlink()
    return folder

"""What one policy update looked like, as numbers by name (pure).

Neighbours: `stages.reinforce` logs them. Invariants: every component of every verdict is there; shares are over valid verdicts,
the invalid ones have a share of their own.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence

from orchestrator.stages.scoring import Scored


def update_metrics(scored: Sequence[Scored], training: Mapping[str, float]) -> dict[str, float]:
    """Reward, accuracy and lengths of the sampled trajectories beside the trainer's own figures (`policy/…`)."""
    valid = [s for s in scored if s.verdict.valid]
    rewards = [float(s.verdict.score or 0.0) for s in valid]
    components: dict[str, list[float]] = defaultdict(list)
    by_task: dict[str, list[float]] = defaultdict(list)
    for s in valid:
        by_task[s.question.task].append(float(s.correct))
        for name, value in s.verdict.components.items():
            components[name].append(value)
    prompt_tokens = sum(len(s.trajectory.prompt_ids) for s in scored)
    response_tokens = sum(len(s.trajectory.response_ids) for s in scored)
    groups: dict[str, list[float]] = defaultdict(list)
    for s, reward in zip(valid, rewards, strict=True):
        groups[s.question.id].append(reward)
    stated = sum(s.stated_claims for s in valid)
    out = {
        "reward/mean": _mean(rewards),
        "reward/std": statistics.pstdev(rewards) if rewards else 0.0,
        "reward/mixed_questions": _mean([float(max(g) > min(g)) for g in groups.values()]),
        "accuracy": _mean([float(s.correct) for s in valid]),
        "think/present": _mean([float(s.thinks) for s in valid]),
        "think/tokens": _mean([float(s.sample.reasoning_tokens) for s in valid]),
        "response/tokens": response_tokens / max(1, len(scored)),
        "response/truncated": _mean([float(not s.sample.finished) for s in valid]),
        "invalid_share": 1 - len(valid) / max(1, len(scored)),
        "tokens/response": float(response_tokens),
        "tokens/total": float(prompt_tokens + response_tokens),
        "trajectories": float(len(scored)),
    }
    if stated:
        out["think/true_perceptions"] = sum(s.true_claims for s in valid) / stated
    out |= {f"reward/{name}": _mean(values) for name, values in components.items()}
    out |= {f"accuracy/{task}": _mean(values) for task, values in by_task.items()}
    out |= {f"policy/{name}": value for name, value in training.items()}
    return out


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0

"""What one policy update looked like, as numbers by name (pure).

Neighbours: `stages.reinforce` logs them. Invariants: every component of every verdict is there; shares are over valid verdicts,
the invalid ones have a share of their own.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from orchestrator.evaluation.outcomes import think_tokens
from orchestrator.stages.repeats import repeat_metrics
from orchestrator.stages.scoring import Scored
from rewards import RewardSpec, applicable, modality_of


def update_metrics(scored: Sequence[Scored], training: Mapping[str, float], spec: RewardSpec) -> dict[str, float]:
    """Reward, accuracy and lengths of the sampled trajectories beside the trainer's own figures (`policy/…`)."""
    valid = [s for s in scored if s.verdict.valid]
    rewards = [float(s.verdict.score or 0.0) for s in valid]
    by_task: dict[str, list[float]] = defaultdict(list)
    for s in valid:
        by_task[s.question.task].append(float(s.correct))
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
        "think/tokens": _mean([float(think_tokens(s.sample)) for s in valid]),
        "response/tokens": response_tokens / max(1, len(scored)),
        "response/truncated": _mean([float(not s.sample.finished) for s in valid]),
        "invalid_share": 1 - len(valid) / max(1, len(scored)),
        "tokens/response": float(response_tokens),
        "tokens/total": float(prompt_tokens + response_tokens),
        "trajectories": float(len(scored)),
    }
    if stated:
        out["think/true_perceptions"] = sum(s.true_claims for s in valid) / stated
    out |= repeat_metrics(scored)
    out |= component_metrics(scored, spec)
    out |= {f"accuracy/{task}": _mean(values) for task, values in by_task.items()}
    out |= {f"policy/{name}": value for name, value in training.items()}
    return out


def component_metrics(scored: Sequence[Scored], spec: RewardSpec) -> dict[str, float]:
    """Every component of every verdict: mean (`reward/answer`), spread, share invalid, seconds (p50, p95); over all samples, by
    data set (`reward/answer/dataset/mmau`) and by task (`reward/answer/task/order`).

    The share invalid is of the samples that a function was asked for: the verdict is invalid and lacks its component.
    """
    groups: dict[str, list[Scored]] = defaultdict(list)
    for s in scored:
        groups[""].append(s)
        groups[f"/dataset/{s.question.dataset or 'none'}"].append(s)
        groups[f"/task/{s.question.task or 'none'}"].append(s)
    return {
        f"reward/{name}{group}{what}": value
        for group, members in groups.items()
        for name, what, value in _of_group(members, spec)
    }


def _of_group(members: Sequence[Scored], spec: RewardSpec) -> Iterator[tuple[str, str, float]]:
    """(component, figure, value)."""
    asked: Counter[str] = Counter()
    for s in members:
        terms = applicable(spec.terms, modality_of(s.sample.question), s.question.dataset)
        asked.update(term.name for term in terms)
    reported = {name for s in members for name in s.verdict.components}
    for name in sorted(reported | set(asked)):
        values = [s.verdict.components[name] for s in members if name in s.verdict.components]
        if asked[name]:
            yield name, "/invalid_share", 1 - len(values) / asked[name]
        if values:
            yield name, "", _mean(values)
            yield name, "/std", statistics.pstdev(values)
        seconds = [s.verdict.seconds[name] for s in members if name in s.verdict.seconds]
        if seconds:
            yield name, "/seconds_p50", float(np.percentile(seconds, 50))
            yield name, "/seconds_p95", float(np.percentile(seconds, 95))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0

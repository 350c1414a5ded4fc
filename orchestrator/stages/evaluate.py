"""Held-out evaluation: accuracy sampled and greedy, think share, true perceptions, by task and by think length.

Neighbours: `collect` samples and scores, `evaluation.statistics` has the figures by length, `conductor` runs it. Invariants: the same
questions and seeds at every point, so that points can be compared; invalid verdicts are left out and counted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.evaluation.outcomes import Outcome, think_tokens
from orchestrator.evaluation.statistics import LengthEffect, length_bins, longer_against_shorter, share
from orchestrator.seeds import derive
from orchestrator.stages.collect import Collector
from orchestrator.stages.context import StageContext
from orchestrator.stages.metrics import component_metrics
from orchestrator.stages.plans import balanced, mean_and_error
from orchestrator.stages.scoring import Scored
from rollout import Question, SamplingSpec

LENGTH_BINS = 5
TITLES = {"evaluate_before": "evaluate before RL", "evaluate_after": "evaluate after RL"}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All shares in 0..1. stderr: standard error of `sampled` over questions; true_perceptions: true of all stated in sampled
    responses; think_tokens: mean length of reasoning (`outcomes.think_tokens`)."""

    sampled: float
    stderr: float
    greedy: float
    greedy_stderr: float
    think_present: float
    true_perceptions: float
    stated_perceptions: int
    greedy_true_perceptions: float
    think_tokens: float
    truncated: float
    questions: int
    invalid_verdicts: int
    by_task: dict[str, dict[str, float]]
    by_think_length: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def run(context: StageContext) -> dict[str, Any]:
    """Held-out questions of the run's data set."""
    found = evaluate(context, context.questions.held_out, TITLES.get(context.stage.name, context.stage.name))
    context.counts = {"questions": found.questions, "invalid": found.invalid_verdicts}
    return found.to_dict()


def evaluate(context: StageContext, questions: Sequence[Question], name: str) -> Evaluation:
    """Sample and score every question."""
    parts = context.parts
    config = parts.config
    chosen = [
        questions[i]
        for i in balanced([q.task for q in questions], config.pipeline.evaluate.questions or len(questions), 0)
    ]
    count = config.pipeline.evaluate.samples
    seed = derive(config.run.seed, "evaluate")
    sampled = SamplingSpec(count, config.rollout.temperature, config.rollout.max_new_tokens, seed)
    greedy = SamplingSpec(1, 0.0, config.rollout.max_new_tokens, seed)
    with parts.progress.bar(name, 2 * len(chosen)) as advance:
        collector = Collector(parts, parts.judge, context.folder, context.version)
        drawn = collector.ask(chosen, sampled, f"{name}/sampled", advance)
        best = collector.ask(chosen, greedy, f"{name}/greedy", advance)
    file_name = name.replace(" ", "_")
    parts.directory.store_trajectories(file_name, [s.stored for group in drawn for s in group])
    parts.tracker.log(0, component_metrics([s for group in drawn for s in group], parts.rewards.spec))
    return summarise(drawn, best)


def summarise(sampled: Sequence[Sequence[Scored]], greedy: Sequence[Sequence[Scored]]) -> Evaluation:
    """Pure. Outer index: question; inner: its samples."""
    valid = [[s for s in group if s.verdict.valid] for group in sampled]
    valid_greedy = [[s for s in group if s.verdict.valid] for group in greedy]
    accuracy = [sum(s.correct for s in group) / len(group) for group in valid if group]
    greedy_accuracy = [float(group[0].correct) for group in valid_greedy if group]
    flat = [s for group in valid for s in group]
    flat_greedy = [s for group in valid_greedy for s in group]
    mean, error = mean_and_error(accuracy)
    greedy_mean, greedy_error = mean_and_error(greedy_accuracy)
    return Evaluation(
        sampled=mean,
        stderr=error,
        greedy=greedy_mean,
        greedy_stderr=greedy_error,
        think_present=share(sum(s.thinks for s in flat), len(flat)),
        true_perceptions=share(sum(s.true_claims for s in flat), sum(s.stated_claims for s in flat)),
        stated_perceptions=sum(s.stated_claims for s in flat),
        greedy_true_perceptions=share(
            sum(s.true_claims for s in flat_greedy), sum(s.stated_claims for s in flat_greedy)
        ),
        think_tokens=share(sum(think_tokens(s.sample) for s in flat), len(flat)),
        truncated=share(sum(not s.sample.finished for s in flat), len(flat)),
        questions=len(accuracy),
        invalid_verdicts=sum(len(group) for group in sampled)
        - len(flat)
        + sum(len(g) for g in greedy)
        - len(flat_greedy),
        by_task=_by_task(valid, valid_greedy),
        by_think_length=by_length([_outcome(s) for s in flat]),
    )


def by_length(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Does longer thinking help? Accuracy by quantile bins of think length with 95 % intervals, and within questions the longer sample
    against the shorter one: of all finished samples, and of those alone that think (`longer_minus_shorter_thinking`)."""
    return {
        "bins": [
            {
                "shortest": b.shortest,
                "longest": b.longest,
                "mean_tokens": b.mean_tokens,
                "samples": b.samples,
                "accuracy": b.accuracy.value,
                "low": b.accuracy.low,
                "high": b.accuracy.high,
                "truncated": b.truncated,
            }
            for b in length_bins(outcomes, bins=LENGTH_BINS)
        ],
        "longer_minus_shorter": _effect(longer_against_shorter(outcomes)),
        "longer_minus_shorter_thinking": _effect(longer_against_shorter(outcomes, thinking_only=True)),
    }


def _effect(effect: LengthEffect) -> dict[str, Any]:
    found = effect.difference
    return {
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "questions": found.questions,
        "pairs": effect.pairs,
        "longer_better": effect.longer_better,
        "shorter_better": effect.shorter_better,
        "verdict": effect.verdict,
    }


def _outcome(s: Scored) -> Outcome:
    return Outcome(
        question_id=s.question.id,
        task=s.question.task,
        domain=s.question.domain,
        dataset=s.question.dataset,
        value=float(s.correct),
        thinks=s.thinks,
        think_tokens=think_tokens(s.sample),
        response_tokens=s.sample.response_tokens,
        finished=s.sample.finished,
        true_claims=s.true_claims,
        stated_claims=s.stated_claims,
    )


def _by_task(valid: Sequence[Sequence[Scored]], greedy: Sequence[Sequence[Scored]]) -> dict[str, dict[str, float]]:
    drawn: dict[str, list[float]] = defaultdict(list)
    best: dict[str, list[float]] = defaultdict(list)
    true: dict[str, int] = defaultdict(int)
    stated: dict[str, int] = defaultdict(int)
    for group in valid:
        if group:
            drawn[group[0].question.task].append(sum(s.correct for s in group) / len(group))
        for s in group:
            true[s.question.task] += s.true_claims
            stated[s.question.task] += s.stated_claims
    for group in greedy:
        if group:
            best[group[0].question.task].append(float(group[0].correct))
    out = {}
    for task in sorted(drawn):
        mean, error = mean_and_error(drawn[task])
        out[task] = {
            "sampled": mean,
            "stderr": error,
            "greedy": mean_and_error(best[task])[0],
            "true_perceptions": share(true[task], stated[task]),
            "questions": float(len(drawn[task])),
        }
    return out

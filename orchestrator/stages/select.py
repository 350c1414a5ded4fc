"""RL data selection: keep the questions that the model gets right sometimes (Step-Audio-R1, section 4.3).

Neighbours: `stages.plans` holds the rule, `stages.reinforce` trains on what is kept. Invariant: a question with an invalid
verdict among its samples is left out and counted, never guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.errors import RunFailed
from orchestrator.seeds import derive
from orchestrator.stages.plans import balanced, histogram, keep_middling
from rollout import Question, SamplingSpec

if TYPE_CHECKING:
    from orchestrator.parts import Parts


@dataclass(frozen=True, slots=True)
class Selection:
    """pool: ids of kept questions; correct_histogram[c]: questions answered correctly c times of `samples`."""

    pool: tuple[str, ...]
    asked: int
    correct_histogram: tuple[int, ...]
    left_out_invalid: int


def run(parts: Parts, questions: Sequence[Question]) -> Selection:
    """Raises RunFailed with the histogram when fewer than `min_pool` questions remain."""
    config = parts.config.pipeline.select
    seed = parts.config.run.seed
    chosen = [
        questions[i]
        for i in balanced([q.task for q in questions], config.questions, derive(seed, "select", "questions"))
    ]
    spec = SamplingSpec(
        config.samples,
        parts.config.rollout.temperature,
        parts.config.rollout.max_new_tokens,
        derive(seed, "select", "sampling"),
    )
    with parts.progress.bar(f"select (pass@{config.samples})", len(chosen)) as advance:
        groups = parts.rollout_and_score(chosen, spec, "select", advance)
    counts = {g[0].question.id: sum(s.correct for s in g) for g in groups if all(s.verdict.valid for s in g)}
    pool = keep_middling(counts, config.keep_min, config.keep_max)
    bins = histogram(counts, config.samples)
    parts.tracker.log(
        0,
        {
            "select/asked": len(chosen),
            "select/kept": len(pool),
            **{f"select/correct_{c}": n for c, n in enumerate(bins)},
        },
    )
    if len(pool) < config.min_pool:
        raise RunFailed(
            f"stage select: only {len(pool)} of {len(chosen)} questions were answered correctly {config.keep_min} to {config.keep_max} "
            f"of {config.samples} times (need {config.min_pool}); by times correct: {bins}. Raise pipeline.select.questions, widen "
            "keep_min..keep_max, or start from another model"
        )
    return Selection(tuple(pool), len(chosen), tuple(bins), len(chosen) - len(counts))

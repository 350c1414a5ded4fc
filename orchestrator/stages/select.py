"""RL data selection: keep the questions that the model gets right sometimes (Step-Audio-R1, section 4.3).

Neighbours: `stages.plans` holds the rule, `stages.reinforce` trains on what is kept. Invariant: a question with an invalid
verdict among its samples is left out and counted, never guessed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.config.recipe import SelectConfig
from orchestrator.errors import RunFailed
from orchestrator.seeds import derive
from orchestrator.stages.collect import Collector
from orchestrator.stages.context import StageContext
from orchestrator.stages.plans import balanced, histogram, keep_middling
from orchestrator.stages.scoring import Scored
from rollout import Question, SamplingSpec


@dataclass(frozen=True, slots=True)
class Selection:
    """pool: ids of kept questions; correct_histogram[c]: questions answered correctly c times of `samples`."""

    pool: tuple[str, ...]
    asked: int
    correct_histogram: tuple[int, ...]
    left_out_invalid: int


def run(context: StageContext, questions: Sequence[Question], config: SelectConfig) -> dict[str, Any]:
    """Raises RunFailed with the histogram when fewer than `min_pool` questions remain."""
    parts, seed, name = context.parts, context.parts.config.run.seed, context.stage.name
    chosen = [
        questions[i] for i in balanced([q.task for q in questions], config.questions, derive(seed, name, "questions"))
    ]
    rollout = parts.config.rollout
    spec = SamplingSpec(config.samples, rollout.temperature, rollout.max_new_tokens, derive(seed, name, "sampling"))
    collector = Collector(parts, parts.judge, context.folder, context.version)
    with parts.progress.bar(f"{name} (pass@{config.samples})", len(chosen)) as advance:
        groups = collector.ask(chosen, spec, name, advance)
    selection = selected(groups, config)
    bins = selection.correct_histogram
    parts.tracker.log(
        0,
        {
            "select/asked": len(chosen),
            "select/kept": len(selection.pool),
            **{f"select/correct_{c}": n for c, n in enumerate(bins)},
        },
    )
    if len(selection.pool) < config.min_pool:
        raise RunFailed(
            f"stage {name}: only {len(selection.pool)} of {len(chosen)} questions were answered correctly {config.keep_min} to "
            f"{config.keep_max} of {config.samples} times (need {config.min_pool}); by times correct: {list(bins)}. Raise "
            f"{context.stage.own}.questions, widen keep_min..keep_max, or start from another model"
        )
    context.counts = {"asked": len(chosen), "kept": len(selection.pool), "invalid": selection.left_out_invalid}
    context.write("pool.json", json.dumps(selection.pool, indent=0))
    return asdict(selection)


def selected(groups: Sequence[Sequence[Scored]], config: SelectConfig) -> Selection:
    """Pure: the rule on sampled groups, one a question."""
    counts = {g[0].question.id: sum(s.correct for s in g) for g in groups if g and all(s.verdict.valid for s in g)}
    pool = keep_middling(counts, config.keep_min, config.keep_max)
    bins = histogram(counts, config.samples)
    return Selection(tuple(pool), len(groups), tuple(bins), len(groups) - len(counts))

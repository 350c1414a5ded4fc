"""Perception-grounded questions (Step-Audio-R1, section 4.2): those whose task needs direct acoustic analysis, and whose answer is
lost when the clip is silenced, replaced by noise, or swapped.

Neighbours: `hearing` makes the perturbed questions and holds the rules, `distil` asks what is kept. Invariants: every question left out
is counted under one reason; counts of the rule by task add up to all questions, those of the probe to the ones it was given.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.errors import RunFailed
from orchestrator.hearing.contribution import (
    Contribution,
    Grounded,
    audio_contribution,
    contributions,
    perception_grounded,
    shares_correct,
)
from orchestrator.hearing.perturb import Perturbation, perturbed, with_donors
from orchestrator.hearing.tasks import Need, by_metadata, perceptual_tasks
from orchestrator.seeds import derive
from orchestrator.stages.cold_start import drawn
from orchestrator.stages.collect import Collector
from orchestrator.stages.context import StageContext
from rollout import Question, SamplingSpec

NOISE_SEED = 0  # the same noise in every run: its features are encoded once


def run(context: StageContext) -> dict[str, Any]:
    """Ids of kept questions. Raises RunFailed when none is left."""
    parts, config = context.parts, context.parts.config.pipeline.perceive
    seed = parts.config.run.seed
    train = context.questions.train
    by_task, why = fitting(train, config.tasks)
    wanted = drawn(by_task, config.questions, derive(seed, context.stage.name, "questions"))
    asked = with_donors(wanted, train)
    why |= {"without_donor": len(wanted) - len(asked)}
    spec = SamplingSpec(
        config.samples,
        parts.config.rollout.temperature,
        parts.config.rollout.max_new_tokens,
        derive(seed, context.stage.name),
    )
    items = probe(context, asked, train, spec)
    grounded = perception_grounded(items, min_original=config.min_original, min_drop=config.min_drop)
    mean, error = audio_contribution(items)
    context.counts |= counted(why, len(by_task) - why["without_donor"], len(asked), grounded)
    parts.tracker.log(0, {f"perceive/{name}": n for name, n in context.counts.items()} | {"audio_contribution": mean})
    if not grounded.ids:
        raise RunFailed(
            f"stage {context.stage.name}: no question is left, {context.counts}; lower pipeline.perceive.min_original or min_drop, or list "
            "other tasks in pipeline.perceive.tasks"
        )
    context.write("questions.json", json.dumps(grounded.ids, indent=0))
    return {"kept": list(grounded.ids), "audio_contribution": mean, "stderr": error, "counts": context.counts}


def fitting(questions: Sequence[Question], tasks: Sequence[str]) -> tuple[list[Question], dict[str, int]]:
    """Questions whose task needs acoustic analysis, in their order, and how many went which way: by the list `tasks`, or by the
    shipped table of each question's own data set."""
    if tasks:
        listed = {q.task: Need.ACOUSTIC if q.task in tasks else Need.SEMANTIC for q in questions}
        return by_metadata(questions, listed)
    kept: set[str] = set()
    counts: Counter[str] = Counter()
    for dataset in sorted({q.dataset for q in questions}):
        found, why = by_metadata([q for q in questions if q.dataset == dataset], perceptual_tasks(dataset=dataset))
        kept |= {q.id for q in found}
        counts.update(why)
    return [q for q in questions if q.id in kept], dict(counts)


def counted(by_task: Mapping[str, int], fitting: int, asked: int, grounded: Grounded) -> dict[str, int]:
    """Questions by what became of them: by_task/… adds up to all (without_donor are of those kept), not_drawn are the fitting ones
    that were not asked, by_probe/… adds up to those asked; no_valid_verdict: with the clip, or without it in one of three ways."""
    unjudged = asked - sum(grounded.counts.values())
    return {
        **{f"by_task/{name}": n for name, n in by_task.items()},
        "not_drawn": fitting - asked,
        "by_probe/no_valid_verdict": unjudged,
        **{f"by_probe/{name}": n for name, n in grounded.counts.items()},
    }


def probe(
    context: StageContext, questions: Sequence[Question], donors: Sequence[Question], spec: SamplingSpec
) -> list[Contribution]:
    """The audio-contribution probe: every question with its clip, and without it in three ways. Each way has samples of its own: seeds
    derive from the ids of the changed questions. Adds to the count of invalid verdicts."""
    parts = context.parts
    collector = Collector(parts, parts.examiner, context.folder, context.version)
    folder = parts.directory.root / "perturbed"
    name = context.stage.name
    ways: dict[Perturbation, dict[str, float]] = {}
    with parts.progress.bar(f"{name} (audio contribution)", len(questions) * (1 + len(Perturbation))) as advance:
        original = shares_correct(collector.ask(questions, spec, f"{name}/original", advance))
        for how in Perturbation:
            changed = perturbed(questions, how, folder=folder, seed=NOISE_SEED, donors=donors)
            ways[how] = shares_correct(collector.ask(changed, spec, f"{name}/{how}", advance))
    context.counts["invalid"] = context.counts.get("invalid", 0) + collector.invalid
    return contributions(original, ways)

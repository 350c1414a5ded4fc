"""Self-distillation (Step-Audio-R1, section 4.2): the model's own chains about sound, kept when every filter passes.

Neighbours: `collect` samples, `distillation` holds filters and caps, `judge_filter` asks a judge about what they leave, `refine` trains on
what is kept. Invariants: chains come from the model of t-1; every kept chain carries its provenance; the funnel adds up to all that was
sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.config.recipe import DistilConfig
from orchestrator.distillation.caps import TaskBalance
from orchestrator.distillation.chains import Distilled, DistilSettings, Provenance, candidates, distil
from orchestrator.distillation.filters import CORRECT, GROUNDING_TRUE_SHARE, RESPONSE_TRUE_SHARE, FilterRule, LengthBand
from orchestrator.errors import RunFailed
from orchestrator.seeds import derive
from orchestrator.stages.cold_start import drawn, hearing_questions
from orchestrator.stages.collect import Collector
from orchestrator.stages.context import StageContext
from orchestrator.stages.judge_filter import Judgement, ask_judge
from orchestrator.stages.scoring import Scored
from rollout import Question, SamplingSpec

HEARING = "hearing_prompts"  # their answer is free text: whether it is "right" is not asked
PASSED = 0.999  # of a component whose full score is 1


def run(context: StageContext) -> dict[str, Any]:
    """Chains of t into kept.jsonl. Raises RunFailed with the funnel when fewer than `min_chains` are kept."""
    config, seed = context.parts.config.pipeline.distil, context.parts.config.run.seed
    by_id = {q.id: q for q in context.questions.train}
    kept = context.results[f"t{context.stage.iteration}.perceive"]["kept"]
    asked = drawn([by_id[name] for name in kept], config.questions, derive(seed, context.stage.name, "questions"))
    asked += hearing_questions(
        context.questions.train, config.hearing_prompts, derive(seed, context.stage.name, "hearing")
    )
    groups = sample(context, asked, config.samples)
    settings = DistilSettings(
        rules=rules(config),
        band=LengthBand(config.min_tokens, config.max_tokens),
        near_duplicate=config.near_duplicate,
        judge=FilterRule(config.judge.name, min=config.judge.min_score) if config.judge.name else None,
        max_chains=config.max_chains,
        balance=TaskBalance(max_ratio=config.max_task_ratio or None, at_least=8),
        seed=derive(seed, context.stage.name, "caps"),
        direct=(HEARING,),
    )
    judged = ask_judge(context, candidates(groups, settings)) if settings.judge else None
    return keep(context, groups, settings, config.min_chains, judged)


def chains(context: StageContext) -> dict[str, Any]:
    """The base model's own reasoning about audio for the cold start: right answers, no other filter (section 3.1)."""
    config, seed = context.parts.config.pipeline.cold_start, context.parts.config.run.seed
    asked = drawn(context.questions.train, config.chain_questions, derive(seed, context.stage.name, "questions"))
    groups = sample(context, asked, config.chain_samples)
    settings = DistilSettings(
        rules=(FilterRule(CORRECT, min=PASSED),), max_chains=1, seed=derive(seed, context.stage.name, "caps")
    )
    return keep(context, groups, settings, 1)


def rules(config: DistilConfig) -> tuple[FilterRule, ...]:
    """The filters in their order: right, grounded, coherent, no denial of hearing. (A judge is asked about what they leave.)"""
    found = []
    if config.correct:
        found.append(FilterRule(CORRECT, min=PASSED, except_datasets=(HEARING,)))
    if config.grounding:
        found.append(FilterRule(GROUNDING_TRUE_SHARE, min=PASSED, except_datasets=(HEARING,)))  # false
        found.append(FilterRule("grounding", min=PASSED, except_datasets=(HEARING,)))  # states too little
        found.append(FilterRule(RESPONSE_TRUE_SHARE, min=PASSED, only_datasets=(HEARING,)))
    if config.consistency:
        found.append(FilterRule("consistency", min=PASSED, except_datasets=(HEARING,)))
    if config.self_cognition:
        found.append(FilterRule("self_cognition", min=PASSED))
    return tuple(found)


def sample(context: StageContext, questions: Sequence[Question], samples: int) -> list[list[Scored]]:
    """`samples` responses to each question by the model of t-1, with the filters' verdicts."""
    parts = context.parts
    spec = SamplingSpec(samples, parts.config.rollout.temperature, parts.config.rollout.max_new_tokens, _seed(context))
    collector = Collector(parts, parts.examiner, context.folder, context.version)
    with parts.progress.bar(f"{context.stage.name} ({samples} samples)", len(questions)) as advance:
        return collector.ask(questions, spec, context.stage.name, advance)


def keep(
    context: StageContext,
    groups: Sequence[Sequence[Scored]],
    settings: DistilSettings,
    least: int,
    judged: Judgement | None = None,
) -> dict[str, Any]:
    """Filter, write kept.jsonl, log the funnel. judged: what the judge said, where `settings` has one."""
    provenance = Provenance(context.model or "base", _seed(context), context.stage.iteration)
    found: Distilled = distil(groups, settings, provenance, judged.verdicts if judged else None)
    costs = judged.costs if judged else {}
    context.counts = {"sampled": found.sampled, **found.funnel, **costs}
    tracker = context.parts.tracker
    tracker.log(0, {f"distil/{name}": n for name, n in context.counts.items()})
    if len(found.kept) < least:
        raise RunFailed(
            f"stage {context.stage.name}: {len(found.kept)} chains of {found.sampled} samples passed the filters (need {least}); what "
            f"became of them: {found.funnel}. Ask more questions, draw more samples, or loosen a filter under pipeline.distil"
            + (judged.complaint if judged else "")
        )
    text = "".join(chain.to_json() + "\n" for chain in found.kept)
    path = context.write("kept.jsonl", text)
    from orchestrator.manifest import file_digest

    tracker.dataset(path, file_digest(path), context.stage.name)
    result = {
        "kept": len(found.kept),
        "funnel": found.funnel,
        "kept_by_task": found.kept_by_task,
        "absent": found.absent,
    }
    return result | ({"judge": judged.versions, "judge_costs": costs} if judged else {})


def _seed(context: StageContext) -> int:
    return derive(context.parts.config.run.seed, context.stage.name, "sampling")

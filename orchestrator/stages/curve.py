"""One point of the recipe's curve: held-out accuracy, true perceptions, audio contribution, think length, self-cognition error.

Neighbours: `evaluate` measures accuracy, `perceive.probe` the contribution, `distillation.pairs` the error; `orchestrator.curve` plots
the points. Invariants: the same questions, prompts and seeds at every point, so that points can be compared; the model measured is
exported and registered with its lineage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.distillation.pairs import error_rate
from orchestrator.hearing.contribution import audio_contribution, chance_of, corrected_contribution
from orchestrator.hearing.perturb import with_donors
from orchestrator.seeds import derive
from orchestrator.stages.cold_start import drawn, hearing_questions
from orchestrator.stages.collect import Collector
from orchestrator.stages.context import StageContext
from orchestrator.stages.evaluate import evaluate
from orchestrator.stages.export import export_model
from orchestrator.stages.perceive import probe
from orchestrator.stages.plans import mean_and_error
from rollout import Question, SamplingSpec


def run(context: StageContext) -> dict[str, Any]:
    """The point, and where the measured model is."""
    parts, config, seed = context.parts, context.parts.config.pipeline.curve, context.parts.config.run.seed
    name, held_out = context.stage.name, context.questions.held_out
    rollout = parts.config.rollout
    folder, version = context.folder, context.version
    point = evaluate(context, held_out, name).to_dict()

    asked, undonated = contribution_questions(
        held_out, config.contribution_questions, derive(seed, "curve", "contribution")
    )
    if undonated:
        parts.progress.note(
            f"{name}: {undonated} of {undonated + len(asked)} held-out questions are not asked without their clip: no other clip has "
            "another answer"
        )
    greedy = SamplingSpec(1, 0.0, rollout.max_new_tokens, derive(seed, "curve"))
    heard = probe(context, asked, held_out, greedy)
    point["audio_contribution"], point["audio_contribution_stderr"] = audio_contribution(heard)
    point["audio_contribution_corrected"] = corrected_contribution(heard, {q.id: chance_of(q) for q in asked})
    collector = Collector(parts, parts.examiner, folder, version)
    prompts = hearing_questions(held_out, config.hearing_prompts, derive(seed, "curve", "hearing"), "held_out")
    spec = SamplingSpec(
        config.hearing_samples, rollout.temperature, rollout.max_new_tokens, derive(seed, "curve", "hearing")
    )
    with parts.progress.bar(f"{name} (self-cognition)", len(prompts)) as advance:
        groups = collector.ask(prompts, spec, f"{name}/hearing", advance)
    point["self_cognition_error"], point["self_cognition_stderr"] = error_rate(groups)
    text = drawn(context.questions.text_held_out, config.text_questions, derive(seed, "curve", "text"))
    if text:
        with parts.progress.bar(f"{name} (text)", len(text)) as advance:
            answers = collector.ask(text, greedy, f"{name}/text", advance)
        point["text_greedy"], point["text_stderr"] = mean_and_error(
            [float(g[0].correct) for g in answers if g[0].verdict.valid]
        )
    parts.tracker.log(0, {f"curve/{key}": value for key, value in point.items() if isinstance(value, float)})
    context.counts |= {"questions": point["questions"], "hearing_prompts": len(prompts), "text": len(text)}
    context.counts |= {"contribution_questions": len(asked), "without_donor": undonated}
    context.counts["invalid"] += point["invalid_verdicts"] + collector.invalid  # beside those of the probe
    return point | {"model": export_model(context, f"models/{name.removeprefix('evaluate.')}")}


def contribution_questions(held_out: Sequence[Question], count: int, seed: int) -> tuple[list[Question], int]:
    """Questions for the audio-contribution probe, `count` drawn from those with clips; and how many of these are left out because
    there is no clip to swap theirs with."""
    chosen = drawn([question for question in held_out if question.clips], count, seed)
    able = with_donors(chosen, held_out)
    return able, len(chosen) - len(able)

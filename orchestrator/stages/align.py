"""Self-cognition correction (Step-Audio-R1, section 6.3): pairs from the model's own samples, then DPO.

Neighbours: `distillation.pairs` mines, the trainer's stage "dpo" learns. Invariants: both sides of a pair were sampled, never written;
where the newest model denies its hearing too seldom, bad ones come from earlier checkpoints and the manifest says so; reference
log-probs are taken once, before the first step.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from actor import DpoSpec, PreferencePair, StageSettings
from orchestrator import chaos
from orchestrator.checkpoints import STEP_PREFIX
from orchestrator.distillation.pairs import MinedPair, error_rate, false_or_empty, merge_earlier, mine_pairs
from orchestrator.seeds import derive
from orchestrator.specs import supervised_optim
from orchestrator.stages.cold_start import hearing_questions
from orchestrator.stages.collect import Collector
from orchestrator.stages.context import StageContext
from orchestrator.stages.plans import batches
from orchestrator.stages.scoring import Scored
from rollout import Question, SamplingSpec

PAIRS_FILE, REFERENCE_FILE = "pairs.jsonl", "reference.json"


def run(context: StageContext) -> dict[str, Any]:
    """Mine, then train; without a pair the weights stay as they are."""
    mined = _pairs(context)
    report = _train(context, mined) if mined else {"steps": 0}
    context.counts["pairs"] = len(mined)
    return report | {"pairs": len(mined), "counts": context.counts}


def _pairs(context: StageContext) -> list[MinedPair]:
    """From the newest model, then from earlier checkpoints, newest first; kept in pairs.jsonl."""
    path = context.folder / PAIRS_FILE
    config, seed = context.parts.config.pipeline.align, context.parts.config.run.seed
    if context.progress.get("mined"):
        context.counts = dict(context.progress["mined"])
        context.files.append(PAIRS_FILE)
        return [MinedPair.from_json(line) for line in path.read_text(encoding="utf-8").splitlines()]
    questions = hearing_questions(context.questions.train, config.prompts, derive(seed, "align", "prompts"))
    draw = derive(seed, "align", "pairs")
    newest = context.models[-1] if context.models else "base"
    groups = _ask(context, questions, newest, context.version)
    found = mine_pairs(groups, model=newest, max_per_question=config.max_pairs_a_question, seed=draw)[: config.pairs]
    mined = merge_earlier(
        found, groups, {}, needed=config.pairs, model=newest, max_per_question=config.max_pairs_a_question, seed=draw
    )
    other_prompt = mined.other_prompt
    for model in [name for name in reversed(context.models[:-1])]:
        if len(mined.pairs) >= config.pairs:
            break
        earlier = _ask(context, questions, model, context.borrow(model))
        mined = merge_earlier(
            mined.pairs,
            groups,
            {model: earlier},
            needed=config.pairs,
            model=newest,
            max_per_question=config.max_pairs_a_question,
            seed=draw,
        )
        other_prompt += mined.other_prompt
    if context.models:
        context.borrow(newest)
    share, error = error_rate(groups)
    context.counts = {
        "prompts": len(questions),
        "error_before": share,
        "false_or_empty": false_or_empty(groups),
        "other_prompt": other_prompt,
        **{f"pairs_from/{name}": n for name, n in mined.pairs_from.items()},
    }
    context.parts.tracker.log(0, {f"align/{name}": value for name, value in context.counts.items()})
    if not mined.pairs:
        context.parts.progress.note(
            f"align: none of the models denied its hearing in a way that could be paired ({len(questions)} prompts, share that denies "
            f"{share:.3f} ± {error:.3f}); there is nothing to learn from, the weights stay"
        )
    context.write(PAIRS_FILE, "".join(pair.to_json() + "\n" for pair in mined.pairs))
    return list(mined.pairs)


def _ask(context: StageContext, questions: Sequence[Question], model: str, version: int) -> list[list[Scored]]:
    parts, config = context.parts, context.parts.config.pipeline.align
    spec = SamplingSpec(
        config.samples,
        parts.config.rollout.temperature,
        parts.config.rollout.max_new_tokens,
        derive(parts.config.run.seed, "align", "sampling", model),
    )
    collector = Collector(parts, parts.examiner, context.folder, version)
    with parts.progress.bar(f"align: prompts to {model}", len(questions)) as advance:
        return collector.ask(questions, spec, f"align/{model}", advance)


def _train(context: StageContext, mined: Sequence[MinedPair]) -> dict[str, Any]:
    parts, config = context.parts, context.parts.config.pipeline.align
    pairs = [
        PreferencePair(str(i), p.prompt_ids, p.chosen_ids, p.rejected_ids, p.feature_keys) for i, p in enumerate(mined)
    ]
    steps: list[dict[str, float]] = list(context.progress.get("steps", []))
    optim = supervised_optim(parts.config, config.lr, config.warmup, config.steps)
    dpo = DpoSpec(config.beta, config.label_smoothing, config.sft_coef)
    if context.progress:
        context.resume(StageSettings("dpo", optim, dpo=dpo))
        reference = json.loads((context.folder / REFERENCE_FILE).read_text(encoding="utf-8"))
        context.files.append(REFERENCE_FILE)
    else:
        parts.trainer.reset_optimizer("dpo", optim, dpo=dpo)
        reference = parts.trainer.reference_log_probs(pairs)
        context.write(REFERENCE_FILE, json.dumps(reference))
        context.keep({"mined": context.counts, "steps": []}, f"{STEP_PREFIX}align_{0:06d}")
    pairs = [
        dataclasses.replace(pair, reference_chosen=good, reference_rejected=bad)
        for pair, (good, bad) in zip(pairs, reference, strict=True)
    ]
    plan = batches(
        len(pairs), min(config.batch, len(pairs)), config.steps, derive(parts.config.run.seed, "align", "order")
    )
    with parts.progress.bar("align (DPO)", len(plan)) as advance:
        advance(len(steps))
        for step, indices in enumerate(plan[len(steps) :], start=len(steps) + 1):
            context.settle()
            report = parts.trainer.dpo_step([pairs[i] for i in indices])
            steps.append(report.metrics)
            parts.tracker.log(step, {f"dpo/{name}": value for name, value in report.metrics.items()})
            advance(1, f"loss {report.metrics['loss']:.3f} accuracy {report.metrics['accuracy']:.2f}")
            chaos.point(f"align:step:{step}")
            if step % parts.config.run.checkpoint_every == 0 and step < len(plan):
                context.keep({"mined": context.counts, "steps": steps}, f"{STEP_PREFIX}align_{step:06d}")
    parts.tracker.log(len(plan), parts.publish(context.next_version()))
    return {"steps": len(steps), "first": steps[0], "last": steps[-1]}

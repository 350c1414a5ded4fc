"""Rules for the keys of the recipe's stages, pure: pipeline configuration → list of problems in words.

Neighbours: `checks.py` adds these to its own. Invariant: every problem is found in one go, each with the allowed range.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from orchestrator.config.recipe import ReinforceConfig, SelectConfig
from orchestrator.config.schema import PipelineConfig
from orchestrator.errors import ConfigError
from orchestrator.evaluation.guardrails import parse_guardrails
from orchestrator.stages.truncation import POLICIES

RECIPES = ("rl", "mgrd")


def recipe_problems(pipeline: PipelineConfig) -> list[str]:
    """All rule violations, each as `key = value: rule`."""
    found = [*_pool("pipeline", pipeline.select, pipeline.reinforce)]
    if pipeline.recipe not in RECIPES:
        found.append(f"pipeline.recipe = {pipeline.recipe!r}: must be one of {', '.join(RECIPES)}")
    if pipeline.recipe == "mgrd":
        found += _mgrd(pipeline)
    return found


def _pool(prefix: str, select: SelectConfig, loop: ReinforceConfig) -> Iterator[str]:
    for name in ("samples",):
        if getattr(select, name) < 1:
            yield f"{prefix}.select.{name} = {getattr(select, name)}: must be at least 1"
    if not 0 <= select.keep_min <= select.keep_max:
        yield f"{prefix}.select.keep_min = {select.keep_min}: must be between 0 and keep_max"
    if select.keep_max > select.samples:
        yield f"{prefix}.select.keep_max = {select.keep_max}: must be at most select.samples ({select.samples})"
    if not 1 <= select.min_pool <= select.questions:
        yield f"{prefix}.select.min_pool = {select.min_pool}: must be between 1 and select.questions"
    if loop.updates < 0:
        yield f"{prefix}.reinforce.updates = {loop.updates}: must be 0 or more"
    for name in ("questions", "samples"):
        if getattr(loop, name) < 1:
            yield f"{prefix}.reinforce.{name} = {getattr(loop, name)}: must be at least 1"
    if loop.questions > select.min_pool:
        yield (
            f"{prefix}.reinforce.questions = {loop.questions}: must be at most {prefix}.select.min_pool ({select.min_pool}): a batch holds "
            "no question twice"
        )
    for name in ("probe_every", "probe_sequences", "html_every"):
        if getattr(loop, name) < 1:
            yield f"{prefix}.reinforce.{name} = {getattr(loop, name)}: must be at least 1"
    if loop.kl_coef is not None and loop.kl_coef < 0:
        yield f"{prefix}.reinforce.kl_coef = {loop.kl_coef}: must be 0 or more, or null"
    if loop.truncated not in POLICIES:
        yield f"{prefix}.reinforce.truncated = {loop.truncated!r}: must be one of {', '.join(POLICIES)}"


def _why(key: str, least: int) -> str:
    shares = {"cold_start.audio_questions": "audio_direct", "cold_start.chain_questions": "audio_reasoning"}
    return f" while pipeline.cold_start.mix.{shares[key]} is above 0" if least and key in shares else ""


def _mgrd(pipeline: PipelineConfig) -> Iterator[str]:
    start, distil, refine, align = pipeline.cold_start, pipeline.distil, pipeline.refine, pipeline.align
    yield from _pool("pipeline.cold_start", start.select, start.reinforce)
    if pipeline.iterations < 0:
        yield f"pipeline.iterations = {pipeline.iterations}: must be 0 or more"
    for key, number, least in (
        ("cold_start.steps", start.steps, 1),
        ("cold_start.batch", start.batch, 1),
        ("cold_start.warmup", start.warmup, 0),
        ("cold_start.chain_questions", start.chain_questions, int(start.mix.audio_reasoning > 0)),
        ("cold_start.chain_samples", start.chain_samples, 1),
        ("cold_start.audio_questions", start.audio_questions, int(start.mix.audio_direct > 0)),
        ("cold_start.hearing_prompts", start.hearing_prompts, 0),
        ("cold_start.silent_prompts", start.silent_prompts, 0),
        ("cold_start.careless_prompts", start.careless_prompts, 0),
        ("perceive.questions", pipeline.perceive.questions, 1),
        ("perceive.samples", pipeline.perceive.samples, 1),
        ("distil.questions", distil.questions, 1),
        ("distil.samples", distil.samples, 1),
        ("distil.hearing_prompts", distil.hearing_prompts, 0),
        ("distil.max_chains", distil.max_chains, 1),
        ("distil.min_chains", distil.min_chains, 1),
        ("refine.steps", refine.steps, 0),
        ("refine.batch", refine.batch, 1),
        ("refine.warmup", refine.warmup, 0),
        ("align.steps", align.steps, 0),
        ("align.batch", align.batch, 1),
        ("align.warmup", align.warmup, 0),
        ("align.max_pairs_a_question", align.max_pairs_a_question, 1),
        ("align.prompts", align.prompts, 1),
        ("align.samples", align.samples, 1),
        ("align.pairs", align.pairs, 1),
        ("curve.contribution_questions", pipeline.curve.contribution_questions, 1),
        ("curve.hearing_prompts", pipeline.curve.hearing_prompts, 1),
        ("curve.hearing_samples", pipeline.curve.hearing_samples, 1),
        ("curve.text_questions", pipeline.curve.text_questions, 0),
    ):
        if number < least:
            yield f"pipeline.{key} = {number}: must be at least {least}{_why(key, least)}"
    for key, rate in (("cold_start.lr", start.lr), ("refine.lr", refine.lr), ("align.lr", align.lr)):
        if not 0 < rate < 1:
            yield f"pipeline.{key} = {rate}: must be between 0 and 1"
    shares = vars(start.mix)
    if any(share < 0 for share in shares.values()) or not any(shares.values()):
        yield f"pipeline.cold_start.mix = {shares}: shares must be 0 or more, and not all 0"
    if not 0 <= pipeline.perceive.min_original <= 1:
        yield f"pipeline.perceive.min_original = {pipeline.perceive.min_original}: must be between 0 and 1"
    if not 0 <= refine.text_share < 1:
        yield f"pipeline.refine.text_share = {refine.text_share}: must be at least 0 and below 1"
    if not 0 <= distil.min_tokens <= distil.max_tokens:
        yield f"pipeline.distil.min_tokens = {distil.min_tokens}: must be between 0 and max_tokens"
    if not 0 < distil.near_duplicate <= 1:
        yield f"pipeline.distil.near_duplicate = {distil.near_duplicate}: must be above 0 and at most 1"
    if distil.max_task_ratio and distil.max_task_ratio < 1:
        yield f"pipeline.distil.max_task_ratio = {distil.max_task_ratio}: must be 0 (no limit) or at least 1"
    if not math.isfinite(distil.judge.min_score):
        yield f"pipeline.distil.judge.min_score = {distil.judge.min_score}: must be a finite number"
    if distil.against not in ("truth", "clip", "either"):
        yield f"pipeline.distil.against = {distil.against!r}: must be truth, clip or either"
    try:
        parse_guardrails(pipeline.promotion.guardrails)
    except ConfigError as error:
        yield f"pipeline.promotion.guardrails: {error}"
    if align.beta <= 0:
        yield f"pipeline.align.beta = {align.beta}: must be above 0"
    if not 0 <= align.label_smoothing < 0.5:
        yield f"pipeline.align.label_smoothing = {align.label_smoothing}: must be at least 0 and below 0.5"
    if align.sft_coef < 0:
        yield f"pipeline.align.sft_coef = {align.sft_coef}: must be 0 or more"

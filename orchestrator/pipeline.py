"""The recipe as data: which stages a configuration has, in which order, and what each depends on (pure).

Neighbours: `conductor` walks through the stages, `manifest` keys them, `stages/` does the work. Invariants: the same configuration
gives the same stages; names are unique; a stage needs only stages before it.

    rl    sft → evaluate_before → select → reinforce → evaluate_after → export
    mgrd  cold_start.{chains → sft → select → reinforce} → evaluate.cold_start
          → t{t}.{perceive → distil → refine → select → reinforce} → evaluate.t{t}, for t = 1..T
          → align → evaluate.align → export                      (Step-Audio-R1, sections 4.1 to 4.3 and 6.3)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.config.schema import ExperimentConfig

MODEL = ("model.dtype", "model.max_model_len", "model.max_audio_chunks")
SAMPLING = ("rollout.temperature", "rollout.max_new_tokens", *MODEL)
SUPERVISED = ("actor.sft_optim", "actor.freeze", *MODEL)
RL = (
    *SAMPLING,
    "reward.terms",
    "reward.joint",
    "actor.ppo",
    "actor.actor_optim",
    "actor.critic_optim",
    "actor.freeze",
)
# Whose verdicts a stage of this kind goes by: the run's reward, or the examiner that filters and measures.
SCORED_BY = {
    **dict.fromkeys(("evaluate", "select", "reinforce"), "reward"),
    **dict.fromkeys(("chains", "perceive", "distil", "align"), "examiner"),
    "curve": "both",
}
# Configuration keys that decide what a stage of this kind does, beside those of the stage itself.
SHARED: dict[str, tuple[str, ...]] = {
    "sft": ("pipeline.sft", *SUPERVISED),
    "evaluate": ("pipeline.evaluate", *SAMPLING),
    "curve": ("pipeline.evaluate", "pipeline.curve", *SAMPLING),
    "select": SAMPLING,
    "reinforce": RL,
    "chains": ("pipeline.cold_start.chain_questions", "pipeline.cold_start.chain_samples", *SAMPLING),
    "cold_start": (
        *(
            f"pipeline.cold_start.{name}"
            for name in (
                *("audio_questions", "hearing_prompts", "silent_prompts", "careless_prompts"),
                *("mix", "steps", "batch", "lr", "warmup"),
            )
        ),
        *SUPERVISED,
    ),
    "perceive": ("pipeline.perceive", *SAMPLING),
    "distil": ("pipeline.distil", *SAMPLING),
    "refine": ("pipeline.refine", *SUPERVISED),
    "align": ("pipeline.align", "actor.sft_optim", "actor.freeze", *SAMPLING),
    "export": (),
}


@dataclass(frozen=True, slots=True)
class Stage:
    """kind: which work; iteration: t (0: cold start, T + 1: after the last); own: key of its own settings; needs: stages whose
    results it reads; first_update: policy updates of the run before it (their numbers go on through all stages); trains: it
    leaves other weights than it found."""

    name: str
    kind: str
    iteration: int = 0
    own: str = ""
    needs: tuple[str, ...] = ()
    first_update: int = 0
    trains: bool = False


def stages_of(config: ExperimentConfig) -> tuple[Stage, ...]:
    """In order of work."""
    return tuple(_mgrd(config) if config.pipeline.recipe == "mgrd" else _rl(config))


def settings_of(stage: Stage, config: ExperimentConfig) -> dict[str, Any]:
    """Every configuration value that decides what the stage does, by key."""
    keys = ((stage.own,) if stage.own else ()) + SHARED[stage.kind]
    return {key: _value(config, key) for key in keys}


def updates_of(stages: Sequence[Stage], config: ExperimentConfig) -> int:
    """Policy updates of all stages."""
    return sum(_value(config, f"{stage.own}.updates") for stage in stages if stage.kind == "reinforce")


def _value(config: ExperimentConfig, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return _plain(value)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value


def _rl(config: ExperimentConfig) -> Iterator[Stage]:
    pipeline = config.pipeline
    if pipeline.sft.enabled:
        yield Stage("sft", "sft", trains=True)
    yield Stage("evaluate_before", "evaluate")
    if pipeline.reinforce.updates:
        yield Stage("select", "select", own="pipeline.select")
        yield Stage("reinforce", "reinforce", own="pipeline.reinforce", needs=("select",), trains=True)
        yield Stage("evaluate_after", "evaluate")
    yield Stage("export", "export")


def _mgrd(config: ExperimentConfig) -> Iterator[Stage]:
    pipeline = config.pipeline
    updates = 0
    start = pipeline.cold_start
    if start.enabled:
        chains = start.mix.audio_reasoning > 0
        if chains:
            yield Stage("cold_start.chains", "chains")
        needs = ("cold_start.chains",) if chains else ()
        yield Stage("cold_start.sft", "cold_start", needs=needs, trains=True)
        if start.reinforce.updates:
            yield Stage("cold_start.select", "select", own="pipeline.cold_start.select")
            yield Stage(
                "cold_start.reinforce",
                "reinforce",
                own="pipeline.cold_start.reinforce",
                needs=("cold_start.select",),
                trains=True,
            )
            updates += start.reinforce.updates
    yield Stage("evaluate.cold_start", "curve")
    for t in range(1, pipeline.iterations + 1):
        if pipeline.refine.steps:
            yield Stage(f"t{t}.perceive", "perceive", t)
            yield Stage(f"t{t}.distil", "distil", t, needs=(f"t{t}.perceive",))
            yield Stage(f"t{t}.refine", "refine", t, needs=(f"t{t}.distil",), trains=True)
        if pipeline.reinforce.updates:
            yield Stage(f"t{t}.select", "select", t, own="pipeline.select")
            yield Stage(
                f"t{t}.reinforce",
                "reinforce",
                t,
                own="pipeline.reinforce",
                needs=(f"t{t}.select",),
                first_update=updates,
                trains=True,
            )
            updates += pipeline.reinforce.updates
        yield Stage(f"evaluate.t{t}", "curve", t)
    if pipeline.align.steps:
        yield Stage("align", "align", pipeline.iterations + 1, trains=True)
        yield Stage("evaluate.align", "curve", pipeline.iterations + 1)
    yield Stage("export", "export", pipeline.iterations + 1)


def summary(stage: Stage, config: ExperimentConfig) -> str:
    """One line on what the stage does with this configuration."""
    pipeline = config.pipeline
    start, distil, align, curve = pipeline.cold_start, pipeline.distil, pipeline.align, pipeline.curve
    in_start = stage.name.startswith("cold_start.")
    select = start.select if in_start else pipeline.select
    loop = start.reinforce if in_start else pipeline.reinforce
    evaluation = f"{pipeline.evaluate.questions or 'all'} held-out questions, {pipeline.evaluate.samples} samples each and greedy"
    return {
        "sft": f"{pipeline.sft.steps} steps of {pipeline.sft.batch} chains from {pipeline.sft.questions} questions",
        "evaluate": evaluation,
        "curve": f"{evaluation}; {curve.contribution_questions} without their clips; {curve.hearing_prompts} open questions about clips",
        "select": f"keep {select.keep_min}..{select.keep_max} correct of {select.samples}, {select.questions} questions asked",
        "reinforce": f"{loop.updates} policy updates of {loop.questions} questions x {loop.samples} samples",
        "chains": f"the base's own reasoning: {start.chain_questions} questions x {start.chain_samples} samples, right ones kept",
        "cold_start": f"{start.steps} SFT steps of {start.batch}: reasoning tasks, conversations, direct audio answers",
        "perceive": f"{pipeline.perceive.questions} audio questions, with and without their clips",
        "distil": f"{distil.questions} questions x {distil.samples} samples, filtered; at most {distil.max_chains} chains a question",
        "refine": f"{pipeline.refine.steps} SFT steps of {pipeline.refine.batch} on kept chains and text reasoning",
        "align": f"{align.prompts} prompts x {align.samples} samples, {align.pairs} pairs, {align.steps} DPO steps",
        "export": "weights as a Hugging Face folder, registered in MLflow",
    }[stage.kind]

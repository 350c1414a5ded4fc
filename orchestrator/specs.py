"""What each part is told: specifications derived from the config, in one place.

Neighbours: `parts` builds engines, trainer and rewards from them, `preflight` looks at them before anything starts. Invariants: pure;
nothing but the config and the model's folder decides.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

from actor import OptimSpec, PPOSpec, PublishSpec, TrainerSpec, Transport
from orchestrator import paths
from orchestrator.config.layouts import critic_layout, layout_of
from orchestrator.config.schema import ExperimentConfig, JointConfig, OptimConfig, TermConfig
from orchestrator.seeds import derive
from rewards import JointTerm, RewardSpec, RewardTerm
from rollout import EngineSpec


def optim_spec(config: OptimConfig) -> OptimSpec:
    return OptimSpec(**vars(config))


def trainer_spec(config: ExperimentConfig, model_path: Path) -> TrainerSpec:
    actor = config.actor
    return TrainerSpec(
        model_path=str(model_path),
        dtype=config.model.dtype,
        layout=layout_of(actor, actor.world_size),
        device=actor.device,
        threads=actor.threads,
        seed=derive(config.run.seed, "trainer"),
        feature_dir=str(paths.feature_dir(config)),
        micro_batch_tokens=actor.micro_batch_tokens,
        freeze=tuple(actor.freeze),
        actor_optim=optim_spec(actor.actor_optim),
        critic_optim=optim_spec(actor.critic_optim),
        sft_optim=optim_spec(actor.sft_optim),
        ppo=PPOSpec(**vars(actor.ppo)),
        critic=True,
        critic_layout=critic_layout(actor),
        critic_apart=actor.critic.placement == "apart",
        recompute=actor.recompute,
        kernels=actor.kernels,
        offload_optimizer=actor.offload_optimizer,
        head_chunk_rows=actor.head_chunk_rows,
        head_chunk_vocab=actor.head_chunk_vocab,
        lora_rank=actor.lora.rank,
        lora_alpha=actor.lora.alpha,
        colocated=config.rollout.colocated,
    )


def engine_spec(config: ExperimentConfig, model_path: Path) -> EngineSpec:
    rollout = config.rollout
    return EngineSpec(
        model_path=str(model_path),
        dtype=config.model.dtype,
        max_model_len=config.model.max_model_len,
        max_num_seqs=rollout.max_num_seqs,
        kv_cache_gib=rollout.kv_cache_gib,
        seed=derive(config.run.seed, "engine"),
        max_audio_chunks=config.model.max_audio_chunks,
        with_encoder=False,
        feature_dir=str(paths.feature_dir(config)),
        threads=rollout.threads,
        device=config.actor.device,
        gpu_memory_utilization=rollout.gpu_memory_utilization,
        tensor_parallel=rollout.tensor_parallel,
        colocated=rollout.colocated,
    )


def publish_spec(config: ExperimentConfig, directory: Path) -> PublishSpec:
    """directory: of the run, which gives its weights a name of their own on every host."""
    publish = config.publish
    name = f"{directory.name}-{hashlib.sha256(str(directory.absolute()).encode()).hexdigest()[:12]}"
    return PublishSpec(
        name=name,
        transport=_nearest(config) if publish.transport == "auto" else Transport(publish.transport),
        bucket_mib=publish.bucket_mib,
        only_changed=publish.only_changed,
        keep_memory=publish.keep_memory,
        limit_s=publish.timeout_s,
    )


def _nearest(config: ExperimentConfig) -> Transport:
    """From GPU to GPU where that is possible, else what always works."""
    if config.actor.device != "cuda" or config.publish.only_changed:
        return Transport.OBJECT_STORE
    return Transport.CUDA_IPC if config.rollout.colocated else Transport.NCCL


def reward_spec(config: ExperimentConfig) -> RewardSpec:
    """Terms by modality and data set. A weight of 0 still reports the component, it only leaves the sum."""
    reward = config.reward
    terms, joint = [], []
    for name, term in reward.terms.items():
        for modality, weight in _weights(term):
            terms.append(RewardTerm(name, weight, modality, dict(term.parameters), version=term.version))
        for dataset, weight in term.datasets.items():
            terms.append(RewardTerm(name, weight, "any", dict(term.parameters), dataset, term.version))
    for name, made in reward.joint.items():
        joint += [JointTerm(name, tuple(made.of), made.how, weight, modality) for modality, weight in _weights(made)]
    return RewardSpec(
        tuple(terms),
        reward.timeout_s,
        reward.memory_mb,
        reward.workers,
        joint=tuple(joint),
        cpu_s=reward.cpu_s,
        open_files=reward.open_files,
        threads=reward.threads,
    )


def examiner_spec(config: ExperimentConfig) -> RewardSpec:
    """What filters chains and measures models: correctness is the score, the others are reported beside it."""
    reward, distil = config.reward, config.pipeline.distil
    terms = [RewardTerm("answer", 1.0, "any")]
    terms += [RewardTerm(name, 0.0, "any") for name in ("think_present", "format", "self_cognition", "repetition")]
    terms += [RewardTerm("consistency", 0.0, "any"), RewardTerm("grounding", 0.0, "audio", {"against": distil.against})]
    return _beside_the_reward(config, tuple(terms), reward.workers)


def judge_filter_spec(config: ExperimentConfig, costs_file: str = "") -> RewardSpec | None:
    """The last filter of distillation; None when no judge is named or nothing is distilled."""
    pipeline = config.pipeline
    judge = pipeline.distil.judge
    if not judge.name or pipeline.recipe != "mgrd" or not pipeline.iterations or not pipeline.refine.steps:
        return None
    term = RewardTerm(judge.name, 1.0, "any", dict(judge.parameters), version=judge.version)
    return dataclasses.replace(_beside_the_reward(config, (term,), 1), costs_file=costs_file)


def _beside_the_reward(config: ExperimentConfig, terms: tuple[RewardTerm, ...], workers: int) -> RewardSpec:
    """Terms that pay nothing, within the limits of the run's reward."""
    reward = config.reward
    return RewardSpec(
        terms,
        reward.timeout_s,
        reward.memory_mb,
        workers,
        cpu_s=reward.cpu_s,
        open_files=reward.open_files,
        threads=reward.threads,
    )


def _weights(term: TermConfig | JointConfig) -> list[tuple[str, float]]:
    """(modality, weight) of the modalities that have one."""
    weights = (
        ("audio", term.weight if term.audio is None else term.audio),
        ("text", term.weight if term.text is None else term.text),
    )
    return [(modality, weight) for modality, weight in weights if weight is not None]


def supervised_optim(config: ExperimentConfig, lr: float, warmup: int, steps: int) -> OptimSpec:
    """Adam of a supervised stage: the trainer's own settings with this learning rate and warm-up."""
    base = config.actor.sft_optim
    values = vars(base) | {"lr": lr, "min_lr": min(base.min_lr, lr), "warmup_updates": min(warmup, steps)}
    return OptimSpec(**values | {"decay_updates": max(base.decay_updates, steps + 1)})

"""The parts of one run, wired: engines, trainer, reward service, ledger, prompts, tracker.

Neighbours: `controller` builds and stops them, stages use them; each part knows nothing of the others. Invariants: everything
started here is stopped by `stop`, also after a failure half-way; specifications are derived from the config in one place.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from actor import OptimSpec, PPOSpec, TrainerGroup, TrainerSpec
from orchestrator import paths
from orchestrator.config.schema import ExperimentConfig, JointConfig, OptimConfig, TermConfig
from orchestrator.errors import RunFailed
from orchestrator.progress import Advance, ProgressView
from orchestrator.rundir import RunDirectory
from orchestrator.seeds import derive
from orchestrator.stages.scoring import Scored, ThinkTokens, pause_on_failing_reward, score
from orchestrator.tracking import RunTracker
from rewards import JointTerm, RewardService, RewardSpec, RewardTerm, Verdict
from rollout import (
    AudioRef,
    EngineSpec,
    FeatureCache,
    FeatureRef,
    Ledger,
    ProbeSequence,
    Prompt,
    PromptBuilder,
    Question,
    RolloutPool,
    SamplingSpec,
    Trajectory,
    load_config,
    load_tokenizer,
)

log = logging.getLogger(__name__)
FEW_CLIPS = 32  # below this a progress bar would only flicker


def optim_spec(config: OptimConfig) -> OptimSpec:
    return OptimSpec(**vars(config))


def trainer_spec(config: ExperimentConfig, model_path: Path) -> TrainerSpec:
    actor = config.actor
    return TrainerSpec(
        model_path=str(model_path),
        dtype=config.model.dtype,
        world_size=actor.world_size,
        tensor_parallel=actor.tensor_parallel,
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
    )


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


def _weights(term: TermConfig | JointConfig) -> list[tuple[str, float]]:
    """(modality, weight) of the modalities that have one."""
    weights = (
        ("audio", term.weight if term.audio is None else term.audio),
        ("text", term.weight if term.text is None else term.text),
    )
    return [(modality, weight) for modality, weight in weights if weight is not None]


class Parts:
    """Everything a stage needs, by name. Built by `start`, gone after `stop`."""

    def __init__(
        self,
        config: ExperimentConfig,
        directory: RunDirectory,
        tracker: RunTracker,
        progress: ProgressView,
        model_path: Path,
    ) -> None:
        self.config = config
        self.directory = directory
        self.tracker: RunTracker = tracker
        self.progress = progress
        self.model_path = model_path
        self.tokenizer: Any = load_tokenizer(model_path)
        self.builder = PromptBuilder(self.tokenizer, load_config(model_path))
        self.features = FeatureCache.for_model(paths.feature_dir(config), model_path)
        vocabulary = self.tokenizer.get_vocab()
        self.think = ThinkTokens(vocabulary["<think>"], vocabulary["</think>"])
        self.trainer = TrainerGroup(trainer_spec(config, model_path), config.actor.step_timeout_s)
        self.rewards = RewardService(reward_spec(config))
        self._prompts: dict[str, Prompt] = {}
        self.pool: RolloutPool
        self.ledger: Ledger

    def start(self, redis_url: str, run_id: str) -> None:
        """Engines, trainer ranks and reward workers at the same time. Raises what the first of them raises."""
        config = self.config
        self.ledger = Ledger(redis_url, run_id, verdict_type=Verdict)
        self.pool = RolloutPool(
            engine_spec(config, self.model_path),
            config.rollout.workers,
            ledger_address=(redis_url, run_id),
            request_timeout_s=config.rollout.request_timeout_s,
        )
        with ThreadPoolExecutor(3) as threads:
            starts = {
                "rollout engines": threads.submit(self.pool.start, config.rollout.start_timeout_s),
                "trainer": threads.submit(self.trainer.start, config.actor.start_timeout_s),
                "reward service": threads.submit(self.rewards.start),
            }
            for name, future in starts.items():
                future.result()
                log.info("%s ready", name)

    def stop(self) -> None:
        """Stop what was started; a part that fails to stop is logged and does not keep the others running."""
        for name in ("pool", "trainer", "rewards"):
            part = getattr(self, name, None)
            if part is None:
                continue
            try:
                part.shutdown()
            except (RuntimeError, OSError, TimeoutError) as error:
                log.warning("%s did not stop cleanly: %s", name, error)

    def prompts(self, questions: Sequence[Question]) -> list[Prompt]:
        """Token ids of questions. Encoder features that are not in the cache yet are computed, with a bar when they are many."""
        new = [question for question in questions if question.id not in self._prompts]
        audio = list({ref.sha256: ref for question in new for ref in question.audio}.values())
        refs = self._encode(audio)
        for question in new:
            chunks = [chunk for ref in question.audio for chunk in refs[ref.sha256]]
            self._prompts[question.id] = self.builder.build(question, chunks)
        return [self._prompts[question.id] for question in questions]

    def _encode(self, audio: Sequence[AudioRef]) -> dict[str, list[FeatureRef]]:
        if len(audio) < FEW_CLIPS:
            return self.features.warm(audio)
        with self.progress.bar("encode clips", len(audio)) as advance:
            return self.features.warm(audio, on_done=advance, threads=os.cpu_count() or 1)

    def rollout(
        self,
        questions: Sequence[Question],
        spec: SamplingSpec,
        prefix: str,
        advance: Advance | None = None,
        ledger_round: int | None = None,
    ) -> list[list[Trajectory]]:
        """`spec.samples` responses to each question, in order; every question its own seed derived from `spec.seed`."""
        prompts = self.prompts(questions)
        specs = [
            SamplingSpec(spec.samples, spec.temperature, spec.max_new_tokens, derive(spec.seed, question.id))
            for question in questions
        ]
        ids = [f"{prefix}/{question.id}" for question in questions]
        return self.pool.generate(prompts, specs, ids, on_done=advance, ledger_round=ledger_round)

    def rollout_and_score(
        self, questions: Sequence[Question], spec: SamplingSpec, prefix: str, advance: Advance | None = None
    ) -> list[list[Scored]]:
        """Outer index: question; inner: its samples. Raises RunPaused when a reward function fails on too many of them."""
        groups = self.rollout(questions, spec, prefix, advance)
        flat = [trajectory for group in groups for trajectory in group]
        asked = [question for question, group in zip(questions, groups, strict=True) for _ in group]
        scored = score(self.rewards, asked, flat, self.think)
        pause_on_failing_reward(scored, self.rewards.spec, self.config.reward.max_invalid_share, prefix)
        members = iter(scored)
        return [[next(members) for _ in group] for group in groups]

    def publish(self, version: int) -> None:
        """The trainer's weights into every engine, confirmed by version and checksum."""
        self.pool.swap(self.trainer.weights(version), timeout_s=self.config.actor.step_timeout_s)

    def probe_sequences(self, asked: Sequence[tuple[Question, Trajectory]], count: int) -> list[ProbeSequence]:
        """`count` sampled responses, spread over the batch, as fixed sequences for both sides to score."""
        stride = max(1, len(asked) // max(1, count))
        chosen = list(asked)[::stride][:count]
        prompts = self.prompts([question for question, _ in chosen])
        return [
            ProbeSequence(prompt.compact_ids, t.prompt_ids, t.response_ids, t.feature_keys)
            for prompt, (_, t) in zip(prompts, chosen, strict=True)
        ]

    def probe(self, sequences: Sequence[ProbeSequence], limit: float, where: str) -> float:
        """Largest |engine − trainer| log-prob over the sequences, in nats. Raises RunFailed above `limit`."""
        engine = self.pool.probe(list(sequences))
        trainer = self.trainer.probe(list(sequences))
        difference = max(
            float(np.max(np.abs(np.asarray(e) - np.asarray(t)))) for e, t in zip(engine, trainer, strict=True)
        )
        if not difference <= limit:  # NaN fails, too
            raise RunFailed(
                f"{where}: engine and trainer disagree by {difference:.2e} nats on the probe (limit {limit:.0e}): the engines do not "
                "run the trainer's weights or see other inputs; see pipeline.reinforce.probe_limit"
            )
        return difference

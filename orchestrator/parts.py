"""The parts of one run, wired: engines, trainer, reward service, ledger, prompts, tracker.

Neighbours: `controller` builds and stops them, stages use them; each part knows nothing of the others. Invariants: everything
started here is stopped by `stop`, also after a failure half-way; specifications are derived from the config in one place.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from actor import TrainerGroup, WatchLimits
from orchestrator import paths
from orchestrator.config.layouts import trainer_ranks
from orchestrator.config.schema import ExperimentConfig
from orchestrator.datasets.identity import prompt_digest
from orchestrator.demand import demand_of
from orchestrator.errors import RunFailed
from orchestrator.gang import Gang
from orchestrator.observer import Nobody, Observer
from orchestrator.progress import Advance, ProgressView
from orchestrator.publishing import WeightPublisher
from orchestrator.rundir import RunDirectory
from orchestrator.seeds import derive
from orchestrator.specs import engine_spec, examiner_spec, publish_spec, trainer_spec
from orchestrator.stages.scoring import Scored, ThinkTokens, attach, pause_on_failing_reward, samples_of
from orchestrator.tracking import RunTracker
from rewards import ResolvedReward, RewardService, Verdict, read_costs, resolve_reward
from rollout import (
    AudioRef,
    FeatureCache,
    FeatureRef,
    Ledger,
    LogFile,
    ProbeSequence,
    Prompt,
    PromptBuilder,
    Question,
    RolloutPool,
    SamplingSpec,
    Trajectory,
    load_config,
    load_tokenizer,
    sweep,
)

log = logging.getLogger(__name__)
FEW_CLIPS = 32  # below this a progress bar would only flicker


class Judge:
    """A reward service with what is needed to score sampled groups. limit: share of a function's failures that pauses the run."""

    def __init__(self, service: RewardService, think: ThinkTokens, limit: float) -> None:
        self.service = service
        self._think = think
        self._limit = limit

    @property
    def versions(self) -> dict[str, str]:
        """Content hash of every function."""
        return self.service.versions

    def score(
        self, questions: Sequence[Question], groups: Sequence[Sequence[Trajectory]], where: str
    ) -> list[list[Scored]]:
        """groups[i] answers questions[i]. Raises RunPaused when a reward function fails on too many of them."""
        flat = [trajectory for group in groups for trajectory in group]
        asked = [question for question, group in zip(questions, groups, strict=True) for _ in group]
        samples = samples_of(asked, flat, self._think)
        scored = attach(asked, flat, samples, self.service.score(samples))
        pause_on_failing_reward(scored, self.service.spec, self._limit, where)
        members = iter(scored)
        return [[next(members) for _ in group] for group in groups]


class Parts:
    """Everything a stage needs, by name. Built by `start`, gone after `stop`. gang: name of what it reserves on Ray."""

    def __init__(
        self,
        config: ExperimentConfig,
        directory: RunDirectory,
        tracker: RunTracker,
        progress: ProgressView,
        *,
        model_path: Path,
        reward: ResolvedReward,
        observer: Observer | None = None,
        gang: str = "",
    ) -> None:
        self.config = config
        self.observer: Observer = observer or Nobody()
        self.directory = directory
        self.tracker: RunTracker = tracker
        self.progress = progress
        self.model_path = model_path
        self.tokenizer: Any = load_tokenizer(model_path)
        self.builder = PromptBuilder(self.tokenizer, load_config(model_path))
        self.features = FeatureCache.for_model(paths.feature_dir(config), model_path)
        vocabulary = self.tokenizer.get_vocab()
        self.think = ThinkTokens(vocabulary["<think>"], vocabulary["</think>"])
        actor = config.actor
        limits = WatchLimits(actor.heartbeat_s, actor.hang_s, actor.teardown_s)
        self.trainer = TrainerGroup(trainer_spec(config, model_path), actor.step_timeout_s, limits)
        self.costs_file = directory.root / "reward_costs.jsonl"
        spec = dataclasses.replace(reward.spec, costs_file=str(self.costs_file))
        self.rewards = RewardService(
            dataclasses.replace(reward, spec=spec), log_file=lambda number: self._log_file("rewards", number)
        )
        self.judge = Judge(self.rewards, self.think, config.reward.max_invalid_share)
        self._examiner: Judge | None = None
        self._gang = Gang(demand_of(config), gang or directory.root.name)
        self._publisher: WeightPublisher | None = None
        self._prompts: dict[str, Prompt] = {}  # by digest of what was asked
        self.pool: RolloutPool
        self.ledger: Ledger

    def start(self, redis_url: str, run_id: str) -> None:
        """Room for engines and trainer ranks, all or nothing; then these and reward workers at the same time. Raises NoPlace, and
        what the first of them raises."""
        config = self.config
        self._redis_url = redis_url
        self.ledger = Ledger(redis_url, run_id, verdict_type=Verdict)
        if config.reward.cache:
            self.rewards.use_cache(redis_url)
        self._gang.reserve(max(config.rollout.start_timeout_s, config.actor.start_timeout_s))
        ranks = trainer_ranks(config.actor)
        first = 0 if config.rollout.colocated else ranks
        self.pool = RolloutPool(
            engine_spec(config, self.model_path),
            config.rollout.workers,
            ledger_address=(redis_url, run_id),
            request_timeout_s=config.rollout.request_timeout_s,
            places=self._gang.places(range(first, first + config.rollout.workers), partial(self._log_file, "rollout")),
        )
        if config.rollout.colocated:
            self.trainer.before_training = self.pool.sleep
        seats = self._gang.places(range(ranks), partial(self._log_file, "trainer"))
        with ThreadPoolExecutor(3) as threads:
            starts = {
                threads.submit(self.pool.start, config.rollout.start_timeout_s): "rollout engines",
                threads.submit(self.trainer.start, config.actor.start_timeout_s, seats): "trainer",
                threads.submit(self.rewards.start): "reward service",
            }
            for started in as_completed(starts):
                if started.exception() is not None:
                    self.stop()  # the others would start for nothing, and be waited for
                started.result()
                log.info("%s ready", starts[started])
        self.tracker.tags({"trainer/kernels": self.trainer.kernels})

    def restart_trainer(self) -> None:
        """Another trainer in the places of one that died, with the base model's weights. Raises TrainerDied."""
        self.trainer.start(self.config.actor.start_timeout_s)

    def stop(self) -> None:
        """Stop what was started; a part that fails to stop is logged and does not keep the others running."""
        examiner = self._examiner.service if self._examiner else None
        for name, part in (
            ("pool", getattr(self, "pool", None)),
            ("trainer", getattr(self, "trainer", None)),
            ("rewards", self.rewards),
            ("examiner", examiner),
        ):
            if part is None:
                continue
            try:
                part.shutdown()
            except (RuntimeError, OSError, TimeoutError) as error:
                log.warning("%s did not stop cleanly: %s", name, error)
        sweep()  # of a trainer that died
        self._gang.release()

    def _log_file(self, component: str, number: int) -> LogFile:
        return LogFile.of(self.directory.logs, f"{component}/{number}")

    @property
    def examiner(self) -> Judge:
        """Scores with the functions that filter and measure (`specs.examiner_spec`), started when first asked for."""
        if self._examiner is None:
            service = RewardService(resolve_reward(examiner_spec(self.config)))
            if self.config.reward.cache:
                service.use_cache(self._redis_url)
            service.start(self.config.rollout.start_timeout_s)
            self._examiner = Judge(service, self.think, self.config.reward.max_invalid_share)
        return self._examiner

    def prompts(self, questions: Sequence[Question]) -> list[Prompt]:
        """Token ids of questions, kept by what decides them and not by id. Encoder features that are not in the cache yet are
        computed, with a bar when they are many."""
        digests = [prompt_digest(question) for question in questions]
        new = {d: q for d, q in zip(digests, questions, strict=True) if d not in self._prompts}
        audio = list({ref.sha256: ref for question in new.values() for ref in question.clips}.values())
        refs = self._encode(audio) if audio else {}
        for digest, question in new.items():
            clips = [refs[ref.sha256] for ref in question.clips]
            chunks = [chunk for clip in clips for chunk in clip]
            self._prompts[digest] = self.builder.build(question, chunks, [len(clip) for clip in clips])
        return [
            dataclasses.replace(self._prompts[digest], question_id=question.id)
            for digest, question in zip(digests, questions, strict=True)
        ]

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

    def reward_costs(self) -> dict[str, float]:
        """What judges and other paid servers have cost this run so far, as metrics; empty without any."""
        if not self.costs_file.exists():
            return {}
        return {
            f"reward/{name}/total_{what}": float(getattr(cost, what))
            for name, cost in read_costs(self.costs_file).items()
            for what in ("requests", "tokens_in", "tokens_out", "money")
        }

    def publish(self, version: int) -> dict[str, float]:
        """The trainer's weights into every engine, confirmed by version and checksum; figures of it. Raises RunFailed when an engine
        refuses them; all engines then serve the version from before."""
        if self._publisher is None:
            spec = publish_spec(self.config, self.directory.root)
            self._publisher = WeightPublisher(
                self.trainer,
                self.pool,
                spec,
                auto=self.config.publish.transport == "auto" and not spec.transport.live,
                workers_each=self.config.rollout.tensor_parallel,
            )
        report = self._publisher.publish(version)
        self.tracker.tags({"publish/transport": report.transport})
        return report.metrics()

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

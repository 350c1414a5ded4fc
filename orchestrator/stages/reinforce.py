"""Policy updates: on-policy PPO on the selected questions (Step-Audio-R1, sections 4.2 and 4.3).

Neighbours: `parts` (engines, rewards, trainer, ledger), `conductor` (checkpoints, state). One policy update is `Reinforce.policy_update`.
Invariants: a trajectory is trained only if its version is the trainer's; each is in the ledger before it is scored, and
acknowledged only when a checkpoint holds the update that used it; an update that was cut off is done again with the same
questions, seeds and trajectories.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from actor import Experience, PPOSpec, StageSettings
from orchestrator import chaos
from orchestrator.checkpoints import CHECKPOINT_PREFIX
from orchestrator.config.recipe import ReinforceConfig
from orchestrator.datasets.cursor import Cursor
from orchestrator.errors import RunFailed
from orchestrator.gallery import gallery_html
from orchestrator.pipeline import Stage
from orchestrator.seeds import derive
from orchestrator.sentinel_evidence import StageWatch
from orchestrator.stages.context import StageContext
from orchestrator.stages.metrics import update_metrics
from orchestrator.stages.scoring import Scored, attach, pause_on_failing_reward, samples_of
from orchestrator.stages.truncation import trainable
from rollout import Question, SamplingSpec, Trajectory

PHASES = ("generate", "reward", "log_probs", "update", "publish", "other")


@dataclass
class Clock:
    """Seconds by phase within one policy update; what no phase claims is `other`."""

    started: float = field(default_factory=time.perf_counter)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))

    @contextmanager
    def phase(self, name: str):
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - begin

    def close(self) -> dict[str, float]:
        total = time.perf_counter() - self.started
        self.seconds["other"] += max(0.0, total - sum(self.seconds.values()))
        return self.seconds


class Reinforce:
    """The loop over policy updates of one stage. `version` is the weights version engines and trainer hold; every update makes the
    next one. Numbers of policy updates go on through all stages of a run."""

    def __init__(self, context: StageContext, pool: Sequence[Question], settings: ReinforceConfig) -> None:
        self.context = context
        self.parts = context.parts
        self.config = settings
        self.pool = list(pool)
        self.cursor = Cursor(len(pool), derive(self.parts.config.run.seed, *_cursor_name(context.stage)))
        self.first = context.progress.get("first", context.updates_before)
        self.done = context.progress.get("update", self.first)
        if context.progress:
            self.cursor.load_state_dict(context.progress["cursor"])
        directory, sentinels = self.parts.directory, self.parts.config.pipeline.sentinels
        before = [r for r in directory.read_updates() if self.first < r["update"] <= self.done and self._is_mine(r)]
        self.watch = StageWatch(before, sentinels, context.stage.name, directory.root)

    @property
    def version(self) -> int:
        return self.context.version

    def run(self) -> dict[str, Any]:
        """All remaining policy updates of the stage."""
        parts, last = self.parts, self.first + self.config.updates
        if self.context.progress:
            self.context.resume(StageSettings("ppo", ppo=self._ppo()))
        else:
            parts.ledger.rewind(self.first)  # the stage may have been done before, with other settings
            parts.trainer.reset_optimizer("ppo", ppo=self._ppo())
            self._checkpoint(self.first)
        parts.directory.drop_updates_after(self.done, self.context.stage.name)
        if self.context.changed:
            parts.ledger.discard_after(self.done)  # sampled by weights that this run will not have
        with parts.progress.bar(f"{self.context.stage.name} (PPO)", self.config.updates) as advance:
            advance(self.done - self.first)
            for number in range(self.done + 1, last + 1):
                metrics = self.policy_update(number)["metrics"]
                advance(1, f"reward {metrics['reward/mean']:.3f} accuracy {metrics['accuracy']:.3f}")
        self.context.counts = {"pool": len(self.pool), "policy_updates": self.config.updates}
        return {"updates": last - self.first, "last_update": last, "version": self.version}

    def _is_mine(self, record: dict[str, Any]) -> bool:
        return record.get("stage", self.context.stage.name) == self.context.stage.name

    def _ppo(self) -> PPOSpec | None:
        """PPO's settings where the stage has its own weight of the KL penalty (Step-Audio-R1.5: KL is a matter of the stage)."""
        if self.config.kl_coef is None:
            return None
        return PPOSpec(**vars(self.parts.config.actor.ppo) | {"kl_coef": self.config.kl_coef})

    def _checkpoint(self, number: int, metrics: Mapping[str, float] | None = None) -> None:
        """Weights, optimizer and random state with the cursor, under the number of the policy update; once it has its name the
        ledger may forget the update's trajectories."""
        progress = {"first": self.first, "update": number, "cursor": self.cursor.state_dict()}
        name = f"{CHECKPOINT_PREFIX}{number:06d}"
        self.context.keep(progress, name, metrics=metrics, then=lambda: self.parts.ledger.acknowledge(number))

    def policy_update(self, number: int) -> dict[str, Any]:
        """Questions → trajectories → verdicts → critic and actor update → new weights in every engine → one record.

        Raises RunPaused when a sentinel sees a collapse or whoever watches wants a pause; the stage's checkpoint then holds the update."""
        clock = Clock()
        self.context.settle()
        questions = [self.pool[i] for i in self.cursor.take(self.config.questions)]
        with clock.phase("generate"):
            trajectories, verdicts = self.collect(number, questions)
        chaos.point(f"update:{number}:after_rollout")
        with clock.phase("reward"):
            scored = self.judge(questions, trajectories, verdicts)
            self.parts.directory.store_trajectories(f"update_{number:06d}", [s.stored for s in scored])
        batch = self.batch(number, scored)
        chaos.point(f"update:{number}:after_reward")
        report = self.parts.trainer.ppo_update(batch, rng_seed=derive(self.parts.config.run.seed, "ppo", number))
        for phase, seconds in report.seconds.items():
            clock.seconds["log_probs" if phase in ("log_probs", "values") else "update"] += seconds
        chaos.point(f"update:{number}:after_update")
        with clock.phase("publish"):
            difference = self.publish(number, scored)
        chaos.point(f"update:{number}:after_publish")
        self.done = number
        record = self.record(number, scored, report.metrics, difference, clock)
        last = self.first + self.config.updates
        pause = self.watch.pause(scored, self.parts.tracker) if self.watch.alarm else None
        pause = pause or self.parts.observer.pause()
        if number % self.parts.config.run.checkpoint_every == 0 or number == last or pause:
            self._checkpoint(number, record["metrics"])
        if pause:
            raise pause
        return record

    def collect(self, number: int, questions: Sequence[Question]) -> tuple[list[Trajectory], list[Any]]:
        """The update's trajectories, flat, questions in order; from the ledger when an interrupted update left them whole."""
        expected = len(questions) * self.config.samples
        kept = self.parts.ledger.round(number)
        if len(kept) != expected:
            spec = SamplingSpec(
                self.config.samples,
                self.parts.config.rollout.temperature,
                self.parts.config.rollout.max_new_tokens,
                derive(self.parts.config.run.seed, "reinforce", number),
            )
            self.parts.rollout(questions, spec, f"reinforce/{number:06d}", ledger_round=number)
            kept = self.parts.ledger.round(number)
        if len(kept) != expected:
            raise RunFailed(
                f"policy update {number}: the ledger holds {len(kept)} of {expected} trajectories after the rollout"
            )
        order = {question.id: i for i, question in enumerate(questions)}
        kept.sort(key=lambda pair: (order[pair[0].question_id], pair[0].sample))
        stale = [t.id for t, _ in kept if t.version != self.version or max(t.versions) != self.version]
        if stale:
            raise RunFailed(
                f"policy update {number}: {len(stale)} trajectories are not of version {self.version}, first {stale[0]}"
            )
        return [trajectory for trajectory, _ in kept], [verdict for _, verdict in kept]

    def judge(
        self, questions: Sequence[Question], trajectories: Sequence[Trajectory], verdicts: Sequence[Any]
    ) -> list[Scored]:
        """Score what has no verdict yet, store each verdict beside its trajectory."""
        of = {question.id: question for question in questions}
        asked = [of[t.question_id] for t in trajectories]
        samples = samples_of(asked, trajectories, self.parts.think)
        # What failed before a resume is tried again: it may have been mended.
        missing = [i for i, verdict in enumerate(verdicts) if verdict is None or not verdict.valid]
        fresh = self.parts.rewards.score([samples[i] for i in missing])
        self.parts.ledger.put_verdicts({trajectories[i].id: verdict for i, verdict in zip(missing, fresh, strict=True)})
        complete = list(verdicts)
        for i, verdict in zip(missing, fresh, strict=True):
            complete[i] = verdict
        return attach(asked, trajectories, samples, complete)

    def batch(self, number: int, scored: Sequence[Scored]) -> list[Experience]:
        """Experiences of valid verdicts. Raises RunPaused when a reward function fails on more than the allowed share."""
        limit = self.parts.config.reward.max_invalid_share
        pause_on_failing_reward(scored, self.parts.rewards.spec, limit, f"policy update {number}")
        groups = {q: i for i, q in enumerate(dict.fromkeys(s.question.id for s in scored))}
        kept = trainable(scored, self.config.truncated)
        if not kept:
            raise RunFailed(
                f"policy update {number}: every response was cut at rollout.max_new_tokens and {self.context.stage.own}.truncated=invalid "
                "leaves them out; raise the limit, or score them"
            )
        return [
            Experience(
                trajectory_id=s.trajectory.id,
                prompt_ids=s.trajectory.prompt_ids,
                response_ids=s.trajectory.response_ids,
                rollout_logprobs=s.trajectory.logprobs,
                reward=reward,
                feature_keys=s.trajectory.feature_keys,
                group=groups[s.question.id],
            )
            for s, reward in kept
        ]

    def publish(self, number: int, scored: Sequence[Scored]) -> float | None:
        """Weights version+1 into every engine, then the probe. Returns the largest log-prob difference in nats, None when the
        probe was not due. Raises RunFailed when engine and trainer disagree by more than the limit."""
        self.published = self.parts.publish(self.context.next_version())
        if number % self.config.probe_every:
            return None
        asked = [(s.question, s.trajectory) for s in scored]  # this update's own, so that a resumed run probes the same
        sequences = self.parts.probe_sequences(asked, self.config.probe_sequences)
        return self.parts.probe(sequences, self.config.probe_limit, f"policy update {number}")

    def record(
        self, number: int, scored: Sequence[Scored], training: dict[str, float], difference: float | None, clock: Clock
    ) -> dict[str, Any]:
        metrics = update_metrics(scored, training, self.parts.rewards.spec) | self.parts.reward_costs()
        metrics |= {"weights_version": float(self.version)} | self.published
        if difference is not None:
            metrics["probe/max_abs_diff"] = difference
        seconds = clock.close()
        total = sum(seconds.values())
        metrics["tokens_per_second"] = metrics["tokens/total"] / total
        metrics["generated_tokens_per_second"] = metrics["tokens/response"] / max(seconds["generate"], 1e-9)
        metrics |= {f"seconds/{phase}": value for phase, value in seconds.items()}
        record = {"update": number, "stage": self.context.stage.name, "version": self.version, "metrics": metrics}
        self.watch.note(record)
        self.parts.directory.append_update(record)
        self.parts.tracker.log(number, metrics)
        self.parts.observer.updated(record)
        self.parts.observer.sampled(self.context.stage.name, number, scored)
        if number % self.config.html_every == 0:
            page = gallery_html(f"Policy update {number}", scored, per_page=6)
            self.parts.tracker.html(f"trajectories/update_{number:06d}.html", page)
        return record


def _cursor_name(stage: Stage) -> tuple[str, ...]:
    return ("cursor",) if stage.name == "reinforce" else ("cursor", stage.name)

"""One policy update: old values and critic steps, advantages, old log-probs and actor steps, metrics.

Neighbours: `actor.trainer` lends the sides (models with their planners); `actor.advantages` and `actor.losses` hold the formulas.
Invariants: old log-probs and values come from the weights before the first step of this update. With one epoch and one
minibatch these are the weights of the step itself, so its own forward pass gives them and no extra pass is run (same bits); the
critic's steps and the actor's need nothing of each other but the old values, so they may run one after the other on the same
ranks or at the same time on ranks of their own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from actor import losses
from actor.advantages import estimate
from actor.learner import Loss, StepResult
from actor.megatron.batch import MicroBatch
from actor.megatron.head import TokenOutputs
from actor.messages import Experience, UpdateReport
from actor.planning import Step, token_sequence
from actor.side import Side
from actor.specs import OWN_ESTIMATOR, PPOSpec


class BatchRefused(ValueError):
    """Experiences that cannot be trained on; the message names the trajectory."""


def check(experiences: Sequence[Experience]) -> None:
    """Raises BatchRefused for an empty batch and for log-probs that are not one a response token."""
    for item in experiences:
        if len(item.rollout_logprobs) != len(item.response_ids):
            raise BatchRefused(
                f"trajectory {item.trajectory_id}: {len(item.rollout_logprobs)} log-probs for "
                f"{len(item.response_ids)} response tokens"
            )
    if not experiences:
        raise BatchRefused("a policy update needs at least one experience")


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps of an update in one layout. whole: the batch at once; epochs: optimizer steps of each pass over it."""

    whole: Step
    epochs: list[list[Step]]


class _Half:
    """What both halves of an update share: the batch, the plan of its steps, the clock."""

    def __init__(
        self, side: Side, spec: PPOSpec, experiences: Sequence[Experience], rng_seed: int, plan: Plan | None
    ) -> None:
        self.side = side
        self.spec = spec
        self.experiences = experiences
        self.lengths = [len(item.response_ids) for item in experiences]
        self.seconds: dict[str, float] = {}
        self.results: list[StepResult] = []
        with self.phase("log_probs"):
            self.plan = plan or _plan(side, spec, experiences, rng_seed)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin

    def means(self, names: Sequence[str]) -> dict[str, float]:
        """Of what the steps summed up, a token and epoch."""
        trained = float(sum(self.lengths)) * self.spec.epochs
        sums = self.side.world.sum_data_parallel(
            {name: sum(step.sums.get(name, 0.0) for step in self.results) for name in names}
        )
        return {name: sums[name] / trained for name in names}

    def everyone(self, name: str) -> list[torch.Tensor]:
        """[R] a sequence, of what the first step of an on-policy update brought back."""
        return self.side.per_sequence(self.results[:1], name, len(self.experiences))


def _plan(side: Side, spec: PPOSpec, experiences: Sequence[Experience], rng_seed: int) -> Plan:
    sequences = [token_sequence(item) for item in experiences]
    whole = side.whole(sequences)
    if spec.on_policy:
        return Plan(whole, [[whole]])
    return Plan(
        whole, [side.planner.steps(sequences, spec.minibatches, rng_seed + epoch) for epoch in range(spec.epochs)]
    )


class CriticUpdate(_Half):
    """The critic's half. `run` once; then `old_values` holds one tensor [R] a sequence. plan: of the actor's half, where both
    have the same layout."""

    def __init__(
        self,
        side: Side,
        spec: PPOSpec,
        experiences: Sequence[Experience],
        rng_seed: int,
        plan: Plan | None = None,
    ) -> None:
        super().__init__(side, spec, experiences, rng_seed, plan)
        self.old_values: list[torch.Tensor] = []

    def run(self, old_values: Sequence[torch.Tensor] | None = None) -> UpdateReport:
        """All steps of the critic. old_values: where they are known already, from the weights as they are."""
        rewards = [item.reward for item in self.experiences]
        if old_values is None and self._one_pass():
            returns = [torch.full((n,), reward) for n, reward in zip(self.lengths, rewards, strict=True)]
            self._step(self.plan.whole, None, returns)
            self.old_values = self.everyone("values")
        else:
            if old_values is None:
                with self.phase("values"):
                    old_values = self.side.run(self.plan.whole, lambda output: output)
            self.old_values = list(old_values)
            groups = [item.group for item in self.experiences]
            _, returns = estimate(self.spec, rewards, self.old_values, self.lengths, groups)
            for steps in self.plan.epochs:
                for step in steps:
                    self._step(step, self.old_values, returns)
        metrics = self.means(["value_loss"])
        metrics["critic_grad_norm"] = sum(step.grad_norm for step in self.results) / len(self.results)
        metrics["critic_lr"] = self.results[-1].lr
        metrics["explained_variance"] = explained_variance(torch.cat(self.old_values), torch.cat(returns))
        return UpdateReport(metrics, dict(self.seconds))

    def _one_pass(self) -> bool:
        """Whether returns are known before values are (gamma = lambda = 1), so that the step's own pass gives the values."""
        own = self.spec.advantage_estimator == OWN_ESTIMATOR
        return own and self.spec.on_policy and self.spec.gamma == 1.0 and self.spec.lam == 1.0

    def _step(self, step: Step, old_values: list[torch.Tensor] | None, returns: list[torch.Tensor]) -> None:
        def loss(values_T: torch.Tensor, batch: MicroBatch) -> Loss:
            old_T = values_T.detach() if old_values is None else batch.gather(old_values)
            value = losses.value_loss(values_T, old_T, batch.gather(returns), self.spec.value_clip).sum()
            return Loss(value, {"value_loss": value.detach().clone()}, {"values": batch.scatter(values_T)})

        with self.phase("critic"):
            self.results.append(self.side.learner.update(step.batches, loss))


class ActorUpdate(_Half):
    """The actor's half. `run` once. reference: model of the KL penalty, of the actor's layout."""

    def __init__(
        self,
        side: Side,
        spec: PPOSpec,
        experiences: Sequence[Experience],
        rng_seed: int,
        *,
        reference: torch.nn.Module | None = None,
    ) -> None:
        super().__init__(side, spec, experiences, rng_seed, None)
        self.policy_loss = losses.policy_loss(spec)
        self.old_logprobs: list[torch.Tensor] | None = None
        self.reference: list[torch.Tensor] | None = None
        if reference is not None:
            with self.phase("log_probs"):
                self.reference = side.run(self.plan.whole, lambda output: output.logprobs_T, reference)

    def run(self, old_values: list[torch.Tensor] | None) -> UpdateReport:
        """Advantages, then all steps of the actor. old_values: the critic's; None for an estimator without one."""
        rewards = [item.reward for item in self.experiences]
        groups = [item.group for item in self.experiences]
        advantages, _ = estimate(self.spec, rewards, old_values, self.lengths, groups)
        if not self._one_pass():
            with self.phase("log_probs"):
                self.old_logprobs = self.side.run(self.plan.whole, lambda output: output.logprobs_T)
        for steps in self.plan.epochs:
            for step in steps:
                self._step(step, advantages)
        old_logprobs = self.everyone("logprobs") if self.old_logprobs is None else self.old_logprobs
        names = ["policy_loss", "clip_fraction", "approx_kl", "entropy"]
        metrics = self.means(names + (["reference_kl"] if self.reference is not None else []))
        metrics["actor_grad_norm"] = sum(step.grad_norm for step in self.results) / len(self.results)
        metrics["actor_lr"] = self.results[-1].lr
        advantages_T = torch.cat(advantages)
        metrics["advantage_mean"] = float(advantages_T.mean())
        metrics["advantage_std"] = float(advantages_T.std(correction=0))
        metrics["response_tokens"] = float(sum(self.lengths))
        return UpdateReport(metrics | mismatch(self.experiences, old_logprobs), dict(self.seconds))

    def _one_pass(self) -> bool:
        """Whether the one step's own pass gives the old log-probs."""
        return self.spec.on_policy

    def _step(self, step: Step, advantages: list[torch.Tensor]) -> None:
        spec = self.spec

        def loss(output: TokenOutputs, batch: MicroBatch) -> Loss:
            logprobs_T = output.logprobs_T
            old_T = logprobs_T.detach() if self.old_logprobs is None else batch.gather(self.old_logprobs)
            advantages_T = batch.gather(advantages)
            data = losses.PolicyInput(logprobs_T, old_T, advantages_T, batch.lengths, step.tokens, step.sequences)
            policy = self.policy_loss(data)
            total = policy
            if spec.entropy_coef:
                total = total - spec.entropy_coef * output.entropies_T.sum()
            detached_T = logprobs_T.detach()
            sums = {
                "policy_loss": policy.detach().clone(),
                "clip_fraction": losses.clipped(detached_T, old_T, advantages_T, spec.clip_low, spec.clip_high).sum(),
                "approx_kl": losses.kl_estimate(old_T, detached_T).sum(),
                "entropy": output.entropies_T.detach().sum(),
            }
            if self.reference is not None:
                divergence = losses.kl_estimate(logprobs_T, batch.gather(self.reference)).sum()
                total = total + spec.kl_coef * divergence
                sums["reference_kl"] = divergence.detach().clone()
            return Loss(total, sums, {"logprobs": batch.scatter(logprobs_T)})

        with self.phase("actor"):
            self.results.append(self.side.learner.update(step.batches, loss, with_entropy_grad=bool(spec.entropy_coef)))


def merged(*reports: UpdateReport) -> UpdateReport:
    """One report of both halves."""
    metrics: dict[str, float] = {}
    seconds: dict[str, float] = dict.fromkeys(("log_probs", "values", "critic", "actor"), 0.0)
    for report in reports:
        metrics |= report.metrics
        for name, value in report.seconds.items():
            seconds[name] = seconds.get(name, 0.0) + value
    return UpdateReport(metrics, seconds)


def explained_variance(values_T: torch.Tensor, returns_T: torch.Tensor) -> float:
    """1 - var(returns - values) / var(returns): 1 is a perfect critic, 0 a constant one; 0 when returns do not vary."""
    variance = returns_T.var(correction=0)
    if variance == 0:
        return 0.0
    return float(1 - (returns_T - values_T).var(correction=0) / variance)


def mismatch(experiences: Sequence[Experience], old_logprobs: Sequence[torch.Tensor]) -> dict[str, float]:
    """Engine against trainer on the sampled tokens, same weights: |difference| in nats, and KL(engine || trainer)."""
    engine_T = torch.tensor([value for item in experiences for value in item.rollout_logprobs])
    trainer_T = torch.cat(list(old_logprobs))
    difference_T = (engine_T - trainer_T).abs()
    return {
        "mismatch_max": float(difference_T.max()),
        "mismatch_mean": float(difference_T.mean()),
        "mismatch_kl": float(losses.kl_estimate(engine_T, trainer_T).mean()),
    }

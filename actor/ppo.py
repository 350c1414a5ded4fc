"""One policy update: old log-probs and values, advantages, critic steps, actor steps, metrics.

Neighbours: `actor.trainer` lends models and planner; `actor.advantages` and `actor.losses` hold the formulas.
Invariants: old log-probs and values come from the weights before the first step of this update. With one epoch and one
minibatch these are the weights of the step itself, so its own forward pass gives them and no extra pass is run (same bits);
the critic steps first, then advantages are known to the actor.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from actor import losses
from actor.advantages import estimate
from actor.learner import Loss, StepResult
from actor.megatron.batch import MicroBatch
from actor.megatron.model import TokenOutputs
from actor.messages import Experience, UpdateReport
from actor.planning import Step, token_sequence
from actor.specs import OWN_ESTIMATOR

if TYPE_CHECKING:
    from actor.trainer import Trainer


class BatchRefused(ValueError):
    """Experiences that cannot be trained on; the message names the trajectory."""


class PolicyUpdate:
    """State of one policy update. `run` once."""

    def __init__(self, trainer: Trainer, experiences: Sequence[Experience], rng_seed: int) -> None:
        for item in experiences:
            if len(item.rollout_logprobs) != len(item.response_ids):
                raise BatchRefused(
                    f"trajectory {item.trajectory_id}: {len(item.rollout_logprobs)} log-probs for "
                    f"{len(item.response_ids)} response tokens"
                )
        if not experiences:
            raise BatchRefused("a policy update needs at least one experience")
        self.trainer = trainer
        self.spec = trainer.ppo
        self.world = trainer.world
        self.experiences = experiences
        self.lengths = [len(item.response_ids) for item in experiences]
        self.seconds: dict[str, float] = {"log_probs": 0.0, "values": 0.0, "critic": 0.0, "actor": 0.0}
        sequences = [token_sequence(item) for item in experiences]
        with self._phase("log_probs"):
            self.whole = trainer.planner.steps(sequences)[0]
            self.epochs = (
                [[self.whole]]
                if self.spec.on_policy
                else [
                    trainer.planner.steps(sequences, self.spec.minibatches, rng_seed + epoch)
                    for epoch in range(self.spec.epochs)
                ]
            )
        self.old_logprobs: list[torch.Tensor] | None = None
        self.old_values: list[torch.Tensor] | None = None
        self.reference: list[torch.Tensor] | None = None
        self.advantages: list[torch.Tensor] = []
        self.returns: list[torch.Tensor] = []
        self.policy_loss = losses.policy_loss(self.spec)

    def run(self) -> UpdateReport:
        """Old log-probs → values → advantages → critic → actor."""
        self._references()
        actor_steps: list[StepResult] = []
        critic_steps: list[StepResult] = []
        if self._one_pass():
            self.returns = [
                torch.full((n,), item.reward) for n, item in zip(self.lengths, self.experiences, strict=True)
            ]
            critic_steps.append(self._critic_step(self.whole))
            self.old_values = self._everyone(critic_steps[0], "values")
            self._advantages()
            actor_steps.append(self._actor_step(self.whole))
            self.old_logprobs = self._everyone(actor_steps[0], "logprobs")
        else:
            self._old_logprobs()
            self._old_values()
            self._advantages()
            for steps in self.epochs:
                for step in steps:
                    if self.trainer.critic is not None:
                        critic_steps.append(self._critic_step(step))
                    actor_steps.append(self._actor_step(step))
        return UpdateReport(self._metrics(actor_steps, critic_steps), dict(self.seconds))

    def _one_pass(self) -> bool:
        """Whether returns are known before values are (gamma = lambda = 1), so that the steps' own passes give the rest."""
        own = self.spec.advantage_estimator == OWN_ESTIMATOR
        return own and self.spec.on_policy and self.spec.gamma == 1.0 and self.spec.lam == 1.0

    def _references(self) -> None:
        if self.trainer.reference is not None:
            with self._phase("log_probs"):
                mine = self.trainer.run_forward(self.trainer.reference, self.whole, lambda output: output.logprobs_T)
                self.reference = self._gather(mine)

    def _old_logprobs(self) -> None:
        with self._phase("log_probs"):
            mine = self.trainer.run_forward(self.trainer.actor.ddp, self.whole, lambda output: output.logprobs_T)
            self.old_logprobs = self._gather(mine)

    def _old_values(self) -> None:
        if self.trainer.critic is not None:
            with self._phase("values"):
                mine = self.trainer.run_forward(self.trainer.critic.ddp, self.whole, lambda output: output)
                self.old_values = self._gather(mine)

    def _advantages(self) -> None:
        rewards = [item.reward for item in self.experiences]
        groups = [item.group for item in self.experiences]
        self.advantages, self.returns = estimate(self.spec, rewards, self.old_values, self.lengths, groups)

    def _critic_step(self, step: Step) -> StepResult:
        def loss(values_T: torch.Tensor, batch: MicroBatch) -> Loss:
            old_T = values_T.detach() if self.old_values is None else batch.gather(self.old_values)
            value = losses.value_loss(values_T, old_T, batch.gather(self.returns), self.spec.value_clip).sum()
            return Loss(value, {"value_loss": value.detach().clone()}, {"values": batch.scatter(values_T)})

        assert self.trainer.critic is not None
        with self._phase("critic"):
            return self.trainer.critic.update(step.batches, loss)

    def _actor_step(self, step: Step) -> StepResult:
        spec = self.spec

        def loss(output: TokenOutputs, batch: MicroBatch) -> Loss:
            logprobs_T = output.logprobs_T
            old_T = logprobs_T.detach() if self.old_logprobs is None else batch.gather(self.old_logprobs)
            advantages_T = batch.gather(self.advantages)
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

        with self._phase("actor"):
            return self.trainer.actor.update(step.batches, loss, with_entropy_grad=bool(spec.entropy_coef))

    def _metrics(self, actor_steps: Sequence[StepResult], critic_steps: Sequence[StepResult]) -> dict[str, float]:
        tokens = float(sum(self.lengths))
        trained = tokens * self.spec.epochs
        names = ["policy_loss", "clip_fraction", "approx_kl", "entropy"]
        names += ["reference_kl"] if self.reference is not None else []
        names += ["value_loss"] if critic_steps else []
        sums = self.world.sum_data_parallel(
            {name: sum(step.sums.get(name, 0.0) for step in [*actor_steps, *critic_steps]) for name in names}
        )
        metrics = {name: sums[name] / trained for name in names}
        metrics["actor_grad_norm"] = sum(step.grad_norm for step in actor_steps) / len(actor_steps)
        metrics["actor_lr"] = actor_steps[-1].lr
        if critic_steps:
            assert self.old_values is not None
            metrics["critic_grad_norm"] = sum(step.grad_norm for step in critic_steps) / len(critic_steps)
            metrics["critic_lr"] = critic_steps[-1].lr
            metrics["explained_variance"] = explained_variance(torch.cat(self.old_values), torch.cat(self.returns))
        assert self.old_logprobs is not None
        advantages_T = torch.cat(self.advantages)
        metrics["advantage_mean"] = float(advantages_T.mean())
        metrics["advantage_std"] = float(advantages_T.std(correction=0))
        metrics["response_tokens"] = tokens
        return metrics | mismatch(self.experiences, self.old_logprobs)

    def _everyone(self, result: StepResult, name: str) -> list[torch.Tensor]:
        return self._gather(result.per_sequence.get(name, {}))

    def _gather(self, mine: dict[int, torch.Tensor]) -> list[torch.Tensor]:
        return self.trainer.gather(mine, len(self.experiences))

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - begin


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

"""One step of preference training: log-prob sums of both responses, a weight for each sequence, one optimizer step, metrics.

Neighbours: `actor.trainer` lends model and planner; `actor.losses.dpo_loss` holds the formula.
Invariants: the loss of a pair depends on a response only through its summed log-prob, so the gradient is that of
sum(weight x log-prob) with weight = d loss / d sum; this keeps every layout exact, however a pair's responses are spread over
micro-batches and ranks. Where both share a micro-batch (the packer puts responses of one prompt together while they fit) the
step's own pass gives the sums; otherwise a pass without gradients gives them first (same bits). The normaliser is the number
of pairs over all ranks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from actor import losses
from actor.learner import Loss, StepResult
from actor.megatron.batch import MicroBatch
from actor.megatron.head import TokenOutputs
from actor.messages import PreferencePair, UpdateReport
from actor.planning import pair_sequences
from actor.ppo import BatchRefused
from actor.specs import DpoSpec

if TYPE_CHECKING:
    from actor.trainer import Trainer

# Pairs whose reference log-probs are taken in one pass: bounds the memory of the plan, not the numbers.
REFERENCE_PAIRS = 256


@dataclass(frozen=True, slots=True)
class PairTerms:
    """Of some pairs, float64. preference_B, sft_B: the two parts of the loss, the second before its coefficient; margin_B:
    difference of implicit rewards; weights: d loss / d summed log-prob, by sequence."""

    preference_B: torch.Tensor
    sft_B: torch.Tensor
    chosen_reward_B: torch.Tensor
    rejected_reward_B: torch.Tensor
    weights: dict[int, float]


def pair_terms(
    spec: DpoSpec, pairs: Sequence[PreferencePair], indices: Sequence[int], sums: Mapping[int, torch.Tensor]
) -> PairTerms:
    """Losses of the pairs at `indices` and the weights of their sequences; sums: log-prob of sequence 2i (chosen of pair i)
    and 2i + 1 (rejected).

    The SFT part is the chosen response's negative log-prob a token (Pang et al. 2024, "Iterative Reasoning Preference
    Optimization", equation 1, over response tokens).
    """
    with torch.enable_grad():
        chosen_B = torch.stack([sums[2 * i] for i in indices]).double().detach().requires_grad_()
        rejected_B = torch.stack([sums[2 * i + 1] for i in indices]).double().detach().requires_grad_()
        reference_chosen_B = chosen_B.new_tensor([pairs[i].reference_chosen for i in indices])
        reference_rejected_B = chosen_B.new_tensor([pairs[i].reference_rejected for i in indices])
        preference_B = losses.dpo_loss(
            chosen_B,
            rejected_B,
            reference_chosen_B,
            reference_rejected_B,
            spec.beta,
            label_smoothing=spec.label_smoothing,
        )
        sft_B = -chosen_B / chosen_B.new_tensor([len(pairs[i].chosen_ids) for i in indices])
        total = (preference_B + spec.sft_coef * sft_B).sum()
        chosen_weight_B, rejected_weight_B = torch.autograd.grad(total, (chosen_B, rejected_B))
    return PairTerms(
        preference_B.detach(),
        sft_B.detach(),
        spec.beta * (chosen_B.detach() - reference_chosen_B),
        spec.beta * (rejected_B.detach() - reference_rejected_B),
        dict(zip([2 * i for i in indices], chosen_weight_B.tolist(), strict=True))
        | dict(zip([2 * i + 1 for i in indices], rejected_weight_B.tolist(), strict=True)),
    )


def reference_log_probs(trainer: Trainer, pairs: Sequence[PreferencePair]) -> list[tuple[float, float]]:
    """Summed log-probs (chosen, rejected) of each pair under the actor as it is."""
    found: list[tuple[float, float]] = []
    for start in range(0, len(pairs), REFERENCE_PAIRS):
        part = pairs[start : start + REFERENCE_PAIRS]
        step = trainer.actor_side.whole(pair_sequences(part))
        sums = [float(v.double().sum()) for v in trainer.actor_side.run(step, lambda output: output.logprobs_T)]
        found.extend(zip(sums[::2], sums[1::2], strict=True))
    return found


class PreferenceUpdate:
    """State of one DPO step. `run` once."""

    def __init__(self, trainer: Trainer, spec: DpoSpec, pairs: Sequence[PreferencePair]) -> None:
        if not pairs:
            raise BatchRefused("a DPO step needs at least one pair")
        for pair in pairs:
            if not (math.isfinite(pair.reference_chosen) and math.isfinite(pair.reference_rejected)):
                raise BatchRefused(
                    f"pair {pair.pair_id}: reference log-probs {pair.reference_chosen}, {pair.reference_rejected} are no "
                    "finite numbers; take them from reference_log_probs before the first step"
                )
        self.trainer = trainer
        self.spec = spec
        self.pairs = pairs
        self.seconds = {"log_probs": 0.0, "update": 0.0}
        with self._phase("log_probs"):
            self.step = trainer.actor_side.whole(pair_sequences(pairs))

    def run(self) -> UpdateReport:
        """Sums (where the step's own pass does not give them) → weights → optimizer step → metrics."""
        known: dict[int, torch.Tensor] | None = None
        if not self._one_pass():
            with self._phase("log_probs"):
                known = _sums(self.trainer.actor_side.run(self.step, lambda output: output.logprobs_T))
        with self._phase("update"):
            result = self._update(known)
        return UpdateReport(self._metrics(result), dict(self.seconds))

    def _one_pass(self) -> bool:
        """Whether on every rank every pair has both responses in one micro-batch."""
        together = [set(batch.members) for batch in self.step.batches]
        whole = all(member ^ 1 in members for members in together for member in members)
        return all(self.trainer.world.gather_data_parallel(whole))

    def _update(self, known: dict[int, torch.Tensor] | None) -> StepResult:
        terms = None if known is None else pair_terms(self.spec, self.pairs, range(len(self.pairs)), known)

        def loss(output: TokenOutputs, batch: MicroBatch) -> Loss:
            per_sequence = batch.scatter(output.logprobs_T)
            chosen = [member // 2 for member in batch.members if member % 2 == 0]
            here = terms
            if here is None:
                sums = {member: values.double().sum() for member, values in per_sequence.items()}
                here = pair_terms(self.spec, self.pairs, chosen, sums)
            weights_T = batch.spread(here.weights)
            total = (weights_T * output.logprobs_T).sum()
            return Loss(total, {"loss": total.detach().clone()}, {"logprobs": per_sequence}, count=len(chosen))

        return self.trainer.actor.update(self.step.batches, loss)

    def _metrics(self, result: StepResult) -> dict[str, float]:
        sums = _sums(self.trainer.actor_side.per_sequence([result], "logprobs", 2 * len(self.pairs)))
        terms = pair_terms(self.spec, self.pairs, range(len(self.pairs)), sums)
        margin_B = terms.chosen_reward_B - terms.rejected_reward_B
        return {
            "loss": float((terms.preference_B + self.spec.sft_coef * terms.sft_B).mean()),
            "preference_loss": float(terms.preference_B.mean()),
            "sft_loss": float(terms.sft_B.mean()),
            "margin": float(margin_B.mean()),
            "accuracy": float((margin_B > 0).double().mean()),
            "chosen_reward": float(terms.chosen_reward_B.mean()),
            "rejected_reward": float(terms.rejected_reward_B.mean()),
            "chosen_logprob": float(torch.stack([sums[2 * i] for i in range(len(self.pairs))]).mean()),
            "rejected_logprob": float(torch.stack([sums[2 * i + 1] for i in range(len(self.pairs))]).mean()),
            "grad_norm": result.grad_norm,
            "lr": result.lr,
            "pairs": float(len(self.pairs)),
            "response_tokens": float(self.step.tokens),
        }

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - begin


def _sums(logprobs: Sequence[torch.Tensor]) -> dict[int, torch.Tensor]:
    return {member: values.double().sum() for member, values in enumerate(logprobs)}

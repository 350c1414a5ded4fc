"""Losses of one optimizer step, a value a response token (DPO: a pair); sums and divisions belong to the caller.

Neighbours: `actor.trainer` feeds them with what the model returned for a micro-batch of T response tokens.
Invariants: no reduction here (Megatron divides the summed loss by the tokens of the whole data-parallel batch, so any
micro-batching and any layout gives the same gradient); inputs named `old_*` carry no gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from actor.specs import OWN_POLICY_LOSS, PPOSpec

# exp() of a larger difference overflows what the clip would cut anyway.
LOG_RATIO_LIMIT = 20.0


@dataclass(frozen=True, slots=True)
class PolicyInput:
    """What a policy loss sees. lengths: response tokens of each sequence of the micro-batch, in order (sum T);
    step_tokens, step_sequences: of the whole optimizer step, over all micro-batches and ranks."""

    logprobs_T: torch.Tensor
    old_logprobs_T: torch.Tensor
    advantages_T: torch.Tensor
    lengths: Sequence[int]
    step_tokens: int
    step_sequences: int


PolicyLoss = Callable[[PolicyInput], torch.Tensor]


def log_ratio(logprobs_T: torch.Tensor, old_logprobs_T: torch.Tensor) -> torch.Tensor:
    return (logprobs_T - old_logprobs_T).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def ppo_loss(
    logprobs_T: torch.Tensor,
    old_logprobs_T: torch.Tensor,
    advantages_T: torch.Tensor,
    clip_low: float,
    clip_high: float,
) -> torch.Tensor:
    """Clipped surrogate, one value a token (Schulman et al. 2017, equation 7), with separate bounds."""
    ratio_T = log_ratio(logprobs_T, old_logprobs_T).exp()
    return -torch.minimum(ratio_T * advantages_T, ratio_T.clamp(1 - clip_low, 1 + clip_high) * advantages_T)


def clipped(
    logprobs_T: torch.Tensor,
    old_logprobs_T: torch.Tensor,
    advantages_T: torch.Tensor,
    clip_low: float,
    clip_high: float,
) -> torch.Tensor:
    """Where the clip cuts the gradient (bool [T])."""
    ratio_T = log_ratio(logprobs_T, old_logprobs_T).exp()
    return torch.where(advantages_T > 0, ratio_T > 1 + clip_high, (advantages_T < 0) & (ratio_T < 1 - clip_low))


def kl_estimate(logprobs_T: torch.Tensor, other_logprobs_T: torch.Tensor) -> torch.Tensor:
    """KL(policy || other) estimated from the policy's own samples, never negative: e^d - d - 1, d = other - policy."""
    difference_T = log_ratio(other_logprobs_T, logprobs_T)
    return difference_T.exp() - difference_T - 1


def value_loss(
    values_T: torch.Tensor, old_values_T: torch.Tensor, returns_T: torch.Tensor, value_clip: float
) -> torch.Tensor:
    """Half the squared error, one value a token; value_clip > 0 keeps the prediction near the old one (pessimistic)."""
    error_T = (values_T - returns_T).square()
    if value_clip > 0:
        near_T = torch.clamp(values_T, old_values_T - value_clip, old_values_T + value_clip)
        error_T = torch.maximum(error_T, (near_T - returns_T).square())
    return 0.5 * error_T


def sft_loss(logprobs_T: torch.Tensor) -> torch.Tensor:
    """Cross entropy, one value a response token."""
    return -logprobs_T


def dpo_loss(
    chosen_B: torch.Tensor,
    rejected_B: torch.Tensor,
    ref_chosen_B: torch.Tensor,
    ref_rejected_B: torch.Tensor,
    beta: float,
    *,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """One value a pair from summed log-probs of whole responses (Rafailov et al. 2023, equation 7).

    label_smoothing e: labels are taken as swapped with probability e (the same loss for the swapped pair has weight e).
    """
    margin_B = beta * ((chosen_B - ref_chosen_B) - (rejected_B - ref_rejected_B))
    return -(1 - label_smoothing) * F.logsigmoid(margin_B) - label_smoothing * F.logsigmoid(-margin_B)


def policy_loss(spec: PPOSpec) -> PolicyLoss:
    """The loss that `spec.policy_loss` names; its result is a sum over the micro-batch's tokens.

    Raises ValueError for a name that neither we nor verl know.
    """
    if spec.policy_loss == OWN_POLICY_LOSS:

        def own(data: PolicyInput) -> torch.Tensor:
            return ppo_loss(
                data.logprobs_T, data.old_logprobs_T, data.advantages_T, spec.clip_low, spec.clip_high
            ).sum()

        return own
    from actor.verl_adapter import verl_policy_loss

    return verl_policy_loss(spec)

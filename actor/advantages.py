"""Advantages and returns of a batch of responses, on padded arrays (float32 on the CPU: a few floats a token).

Neighbours: `actor.trainer` calls `estimate` between the value pass and the updates.
Invariants: the reward counts once, on the last response token; positions outside the mask come back as 0; whitening happens
only where `PPOSpec.whiten_advantages` says so, also for verl's "gae", which we replace by our own under that name.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from actor.specs import OWN_ESTIMATOR, PPOSpec

WHITEN_EPSILON = 1e-8  # keeps a batch of equal advantages finite


class EstimatorError(ValueError):
    """An estimator that is unknown or cannot take this batch; the message names it."""


def closed_form(
    rewards_B: torch.Tensor, values_BT: torch.Tensor, mask_BT: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Advantages and returns [B, T] at gamma = lambda = 1: every token's return is the response's reward."""
    returns_BT = rewards_B[:, None] * mask_BT
    return (returns_BT - values_BT) * mask_BT, returns_BT


def gae(
    rewards_B: torch.Tensor, values_BT: torch.Tensor, mask_BT: torch.Tensor, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised advantage estimation, reward on each row's last masked token; rows are contiguous from position 0.

    Advantages and returns [B, T], unwhitened, 0 outside the mask.
    """
    length_B = mask_BT.sum(1).long()
    rewards_BT = torch.zeros_like(values_BT)
    rewards_BT[torch.arange(len(length_B)), length_B - 1] = rewards_B
    values_BT = values_BT * mask_BT
    advantages_BT = torch.zeros_like(values_BT)
    running_B = torch.zeros_like(rewards_B)
    next_value_B = torch.zeros_like(rewards_B)
    for t in reversed(range(values_BT.shape[1])):
        delta_B = rewards_BT[:, t] + gamma * next_value_B - values_BT[:, t]
        running_B = (delta_B + gamma * lam * running_B) * mask_BT[:, t]
        next_value_B = values_BT[:, t]
        advantages_BT[:, t] = running_B
    return advantages_BT, advantages_BT + values_BT


def whiten(advantages_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """Masked mean 0, masked variance 1 (sample variance); 0 outside the mask. A single token comes back as 0."""
    count = mask_BT.sum()
    mean = (advantages_BT * mask_BT).sum() / count
    centred_BT = (advantages_BT - mean) * mask_BT
    variance = centred_BT.square().sum() / (count - 1).clamp(min=1)
    return centred_BT * torch.rsqrt(variance + WHITEN_EPSILON)


def estimate(
    spec: PPOSpec,
    rewards: Sequence[float],
    values: Sequence[torch.Tensor] | None,
    lengths: Sequence[int],
    groups: Sequence[int],
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Advantages and returns, one tensor [R] a response.

    rewards: one a response; values: one tensor [R] a response (None without a critic); groups: question index, for
    group-relative estimators. Raises EstimatorError for an unknown estimator or one whose needs are not met.
    """
    mask_BT = (torch.arange(max(lengths))[None] < torch.tensor(list(lengths))[:, None]).float()
    rewards_B = torch.tensor(list(rewards), dtype=torch.float32)
    values_BT = torch.zeros_like(mask_BT)
    if values is not None:
        for row, value in zip(values_BT, values, strict=True):
            row[: len(value)] = value
    if spec.advantage_estimator == OWN_ESTIMATOR:
        if values is None:
            raise EstimatorError('"gae" needs values; start the trainer with a critic')
        if spec.gamma == 1.0 and spec.lam == 1.0:
            advantages_BT, returns_BT = closed_form(rewards_B, values_BT, mask_BT)
        else:
            advantages_BT, returns_BT = gae(rewards_B, values_BT, mask_BT, spec.gamma, spec.lam)
    else:
        from actor.verl_adapter import verl_advantages

        advantages_BT, returns_BT = verl_advantages(spec, rewards_B, values_BT, mask_BT, groups)
    if spec.whiten_advantages:
        advantages_BT = whiten(advantages_BT, mask_BT)

    def cut(tensor_BT: torch.Tensor) -> list[torch.Tensor]:
        return [row[:length].clone() for row, length in zip(tensor_BT, lengths, strict=True)]

    return cut(advantages_BT), cut(returns_BT)

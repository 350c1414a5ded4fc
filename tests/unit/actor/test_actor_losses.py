"""Losses against values worked out by hand, and the gradient that the clip leaves."""

from __future__ import annotations

import math

import torch

from actor import losses


def test_clip_bounds_gain_and_loss_by_its_two_sides() -> None:
    ratios_T = torch.tensor([0.5, 0.9, 1.5, 0.5, 1.5])
    advantages_T = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0])
    loss_T = losses.ppo_loss(ratios_T.log(), torch.zeros(5), advantages_T, 0.2, 0.3)
    torch.testing.assert_close(loss_T, torch.tensor([-0.5, -0.9, -1.3, 0.8, 1.5]))


def test_no_gradient_flows_where_the_clip_acts_and_only_there() -> None:
    logprobs_T = torch.tensor([0.5, 1.5, 0.5, 1.5, 1.0]).log().requires_grad_()
    advantages_T = torch.tensor([1.0, 1.0, -1.0, -1.0, 1.0])
    losses.ppo_loss(logprobs_T, torch.zeros(5), advantages_T, 0.2, 0.2).sum().backward()
    clipped_T = losses.clipped(logprobs_T.detach(), torch.zeros(5), advantages_T, 0.2, 0.2)
    assert clipped_T.tolist() == [False, True, True, False, False]
    assert logprobs_T.grad is not None
    assert (logprobs_T.grad == 0).tolist() == clipped_T.tolist()


def test_at_ratio_one_the_gradient_is_the_policy_gradient() -> None:
    logprobs_T = torch.randn(9, requires_grad=True)
    advantages_T = torch.randn(9)
    losses.ppo_loss(logprobs_T, logprobs_T.detach(), advantages_T, 0.2, 0.2).sum().backward()
    torch.testing.assert_close(logprobs_T.grad, -advantages_T)


def test_a_wild_ratio_stays_finite() -> None:
    logprobs_T = torch.tensor([500.0, -500.0], requires_grad=True)
    loss = losses.ppo_loss(logprobs_T, torch.zeros(2), torch.tensor([-1.0, -1.0]), 0.2, 0.2).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert logprobs_T.grad is not None and torch.isfinite(logprobs_T.grad).all()


def test_value_loss_is_half_the_squared_error_and_pessimistic_when_clipped() -> None:
    values_T, returns_T, old_T = torch.tensor([2.0, 0.1]), torch.tensor([1.0, 1.0]), torch.zeros(2)
    torch.testing.assert_close(losses.value_loss(values_T, old_T, returns_T, 0.0), torch.tensor([0.5, 0.405]))
    torch.testing.assert_close(losses.value_loss(values_T, old_T, returns_T, 0.5), torch.tensor([0.5, 0.405]))
    torch.testing.assert_close(
        losses.value_loss(torch.tensor([0.9]), torch.zeros(1), torch.ones(1), 0.5), torch.tensor([0.125])
    )


def test_kl_estimate_is_zero_for_equal_policies_and_positive_otherwise() -> None:
    assert losses.kl_estimate(torch.randn(5), torch.zeros(5)).min() >= 0
    assert losses.kl_estimate(torch.ones(3), torch.ones(3)).abs().max() == 0
    torch.testing.assert_close(
        losses.kl_estimate(torch.tensor([0.0]), torch.tensor([1.0])), torch.tensor([math.e - 2.0])
    )

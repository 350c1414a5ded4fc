"""Advantages: closed form, general recursion, whitening as a switch, masks."""

from __future__ import annotations

import pytest
import torch

from actor.advantages import EstimatorError, closed_form, estimate, gae, whiten
from actor.testing import ppo


def random_batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lengths_B = torch.randint(1, 12, (7,), generator=generator)
    mask_BT = (torch.arange(12)[None] < lengths_B[:, None]).float()
    return torch.rand(7, generator=generator), torch.randn(7, 12, generator=generator), mask_BT


def test_closed_form_is_gae_at_gamma_and_lambda_one() -> None:
    rewards_B, values_BT, mask_BT = random_batch()
    expected = gae(rewards_B, values_BT, mask_BT, 1.0, 1.0)
    for ours, theirs in zip(closed_form(rewards_B, values_BT, mask_BT), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_lambda_zero_is_the_one_step_error() -> None:
    rewards_B, values_BT, mask_BT = random_batch()
    advantages_BT, _ = gae(rewards_B, values_BT, mask_BT, 0.9, 0.0)
    for row in range(len(rewards_B)):
        length = int(mask_BT[row].sum())
        value = values_BT[row, :length]
        after = torch.cat([0.9 * value[1:], rewards_B[row : row + 1]])
        torch.testing.assert_close(advantages_BT[row, :length], after - value)


def test_nothing_outside_the_mask_counts_or_comes_back() -> None:
    rewards_B, values_BT, mask_BT = random_batch()
    noisy_BT = values_BT + (1 - mask_BT) * 1e6
    for gamma, lam in ((1.0, 1.0), (0.9, 0.7)):
        clean = gae(rewards_B, values_BT, mask_BT, gamma, lam)
        for a, b in zip(clean, gae(rewards_B, noisy_BT, mask_BT, gamma, lam), strict=True):
            torch.testing.assert_close(a, b)
            assert (a * (1 - mask_BT)).abs().max() == 0


def test_whitening_gives_mean_zero_and_variance_one_inside_the_mask() -> None:
    _, values_BT, mask_BT = random_batch()
    inside = whiten(values_BT, mask_BT)[mask_BT.bool()]
    assert abs(float(inside.mean())) < 1e-6
    assert abs(float(inside.var()) - 1) < 1e-5


def test_whitening_is_a_switch() -> None:
    rewards, lengths = [0.0, 1.0], [2, 3]
    values = [torch.zeros(2), torch.zeros(3)]
    raw, returns = estimate(ppo(whiten_advantages=False), rewards, values, lengths, [0, 0])
    assert [row.tolist() for row in raw] == [[0.0, 0.0], [1.0, 1.0, 1.0]]
    assert [row.tolist() for row in returns] == [[0.0, 0.0], [1.0, 1.0, 1.0]]
    white, returns_again = estimate(ppo(whiten_advantages=True), rewards, values, lengths, [0, 0])
    assert abs(float(torch.cat(white).mean())) < 1e-6 and float(torch.cat(white).std()) > 0.99
    assert [row.tolist() for row in returns_again] == [[0.0, 0.0], [1.0, 1.0, 1.0]]


def test_equal_rewards_whiten_to_zero_not_to_nan() -> None:
    white, _ = estimate(ppo(), [1.0, 1.0], [torch.zeros(1), torch.zeros(2)], [1, 2], [0, 0])
    assert torch.cat(white).abs().max() == 0


def test_gae_without_a_critic_is_refused() -> None:
    with pytest.raises(EstimatorError, match="needs values"):
        estimate(ppo(), [1.0], None, [3], [0])

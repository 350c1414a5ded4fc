"""Our GAE against verl's on random batches; verl's estimators by name through the adapter."""

from __future__ import annotations

import pytest
import torch

from actor.advantages import EstimatorError, estimate
from actor.testing import ppo

LENGTHS = [5, 1, 8, 3, 8, 2]
GROUPS = [0, 0, 0, 1, 1, 1]


def random_batch(seed: int) -> tuple[list[float], list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.rand(len(LENGTHS), generator=generator).tolist()
    return rewards, [torch.randn(length, generator=generator) for length in LENGTHS]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (0.99, 0.95), (0.9, 0.0)])
def test_our_gae_is_verls_whitened_and_unwhitened_returns(seed: int, gamma: float, lam: float) -> None:
    from verl.trainer.ppo.core_algos import compute_gae_advantage_return

    rewards, values = random_batch(seed)
    mask_BT = (torch.arange(max(LENGTHS))[None] < torch.tensor(LENGTHS)[:, None]).float()
    token_rewards_BT = torch.zeros_like(mask_BT)
    token_rewards_BT[torch.arange(len(LENGTHS)), torch.tensor(LENGTHS) - 1] = torch.tensor(rewards)
    theirs_BT, returns_BT = compute_gae_advantage_return(
        token_rewards_BT, torch.nn.utils.rnn.pad_sequence(values, batch_first=True), mask_BT, gamma, lam
    )
    advantages, returns = estimate(ppo(gamma=gamma, lam=lam), rewards, values, LENGTHS, GROUPS)
    for row, length in enumerate(LENGTHS):
        torch.testing.assert_close(advantages[row], theirs_BT[row, :length], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(returns[row], returns_BT[row, :length], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["grpo", "rloo", "reinforce_plus_plus", "reinforce_plus_plus_baseline", "opo", "gpg"])
def test_verls_estimators_work_by_name(name: str) -> None:
    rewards, _ = random_batch(0)
    advantages, _ = estimate(ppo(advantage_estimator=name, whiten_advantages=False), rewards, None, LENGTHS, GROUPS)
    assert [len(row) for row in advantages] == LENGTHS
    assert torch.cat(advantages).isfinite().all() and torch.cat(advantages).abs().max() > 0


def test_grpo_is_the_reward_normalised_within_its_question() -> None:
    rewards, _ = random_batch(1)
    advantages, _ = estimate(ppo(advantage_estimator="grpo", whiten_advantages=False), rewards, None, LENGTHS, GROUPS)
    group = torch.tensor(rewards[:3])
    expected = (group - group.mean()) / (group.std() + 1e-6)
    for row in range(3):
        torch.testing.assert_close(advantages[row], expected[row].expand(LENGTHS[row]))


def test_an_unknown_estimator_lists_the_known_ones() -> None:
    with pytest.raises(EstimatorError, match=r"unknown advantage estimator 'nope'; ours: gae; verl's: .*grpo"):
        estimate(ppo(advantage_estimator="nope"), [1.0], None, [1], [0])


def test_an_estimator_with_other_needs_names_them() -> None:
    with pytest.raises(EstimatorError, match="'remax' needs reward_baselines"):
        estimate(ppo(advantage_estimator="remax"), [1.0], None, [1], [0])

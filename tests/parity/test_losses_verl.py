"""Our PPO and value loss against verl's on random batches; verl's losses by name through the adapter."""

from __future__ import annotations

import pytest
import torch

from actor import losses
from actor.losses import PolicyInput
from actor.testing import ppo


def random_tokens(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 9, (6,), generator=generator).tolist()
    total = sum(lengths)
    old_T = -3 * torch.rand(total, generator=generator)
    return (
        old_T + 0.3 * torch.randn(total, generator=generator),
        old_T,
        torch.randn(total, generator=generator),
        lengths,
    )


def padded(values_T: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(values_T.split(lengths)), batch_first=True)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("bounds", [(0.2, 0.2), (0.1, 0.4)])
def test_our_policy_loss_is_verls_without_its_dual_clip(seed: int, bounds: tuple[float, float]) -> None:
    logprobs_T, old_T, advantages_T, lengths = random_tokens(seed)
    values = []
    for name in ("ppo", "vanilla"):
        inputs_T = logprobs_T.clone().requires_grad_()
        function = losses.policy_loss(ppo(policy_loss=name, clip_low=bounds[0], clip_high=bounds[1]))
        loss = function(PolicyInput(inputs_T, old_T, advantages_T, lengths, sum(lengths), len(lengths)))
        loss.backward()
        values.append((loss.detach(), inputs_T.grad))
    torch.testing.assert_close(values[0][0], values[1][0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(values[0][1], values[1][1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["vanilla", "gspo", "gpg", "geo_mean", "cispo"])
def test_verl_losses_over_micro_batches_add_up_to_the_whole(name: str) -> None:
    logprobs_T, old_T, advantages_T, lengths = random_tokens(11)
    function = losses.policy_loss(ppo(policy_loss=name))
    whole = function(PolicyInput(logprobs_T, old_T, advantages_T, lengths, sum(lengths), len(lengths)))
    cut = sum(lengths[:2])
    parts = [
        function(PolicyInput(logprobs_T[s], old_T[s], advantages_T[s], part, sum(lengths), len(lengths)))
        for s, part in ((slice(0, cut), lengths[:2]), (slice(cut, None), lengths[2:]))
    ]
    torch.testing.assert_close(sum(parts), whole, rtol=1e-5, atol=1e-5)


def test_an_unknown_policy_loss_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown policy loss 'nope'; ours: ppo; verl's: .*gspo.*vanilla"):
        losses.policy_loss(ppo(policy_loss="nope"))


@pytest.mark.parametrize("value_clip", [0.2, 100.0])
def test_our_value_loss_is_verls(value_clip: float) -> None:
    from verl.trainer.ppo.core_algos import compute_value_loss

    values_T, old_T, returns_T, lengths = random_tokens(3)
    theirs, _ = compute_value_loss(
        vpreds=padded(values_T, lengths),
        returns=padded(returns_T, lengths),
        values=padded(old_T, lengths),
        response_mask=padded(torch.ones(sum(lengths)), lengths),
        cliprange_value=value_clip,
    )
    ours = losses.value_loss(values_T, old_T, returns_T, value_clip).mean()
    torch.testing.assert_close(ours, theirs)

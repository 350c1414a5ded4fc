"""Trained adaptor, untied head, warm-up, bfloat16: what the frozen-adaptor float32 tests do not reach."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from actor.publishing import payload_tensors
from actor.testing import experiences, make_case, one_rank, optim, sft_examples, trainer_spec

pytestmark = pytest.mark.slow


def test_a_trained_adaptor_learns_from_audio(tmp_path: Path) -> None:
    """freeze without the adaptor: gradients reach it, actor and critic each have their own; the learning rate warms up."""
    torch.set_num_threads(1)
    case = make_case(tmp_path, tie_word_embeddings=False)
    batch = experiences(case, questions=3, samples=2)
    spec = trainer_spec(case, freeze=("model.embed_tokens.",), sft_optim=optim(warmup_updates=4))
    with one_rank(spec, tmp_path) as trainer:
        for ours, item in zip(trainer.log_probs(batch), batch, strict=True):
            np.testing.assert_allclose(ours, item.rollout_logprobs, atol=1e-4)
        before = payload_tensors(trainer.weights(0))
        rates = [trainer.sft_step(sft_examples(batch)).metrics["lr"] for _ in range(5)]
        after = payload_tensors(trainer.weights(1))
        still = {name for name in before if torch.equal(before[name], after[name])}
        trainer.reset_optimizer("ppo")
        own = trainer.critic.model.adapter.conv.weight.clone()
        for seed in range(2):  # the value head starts at zero: the body gets its first gradient with the second update
            trainer.ppo_update(batch, seed)
        assert not torch.equal(own, trainer.critic.model.adapter.conv.weight)
    assert rates == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3])
    assert still == {"model.embed_tokens.weight"}


def test_bfloat16_trains_near_float32(tmp_path: Path) -> None:
    """Weights in bfloat16 with float32 main copies: log-probs near the reference, the loss falls, the payload is bfloat16."""
    torch.set_num_threads(1)
    case = make_case(tmp_path)
    batch = experiences(case, questions=3, samples=2)
    with one_rank(trainer_spec(case, dtype="bfloat16"), tmp_path) as trainer:
        for ours, item in zip(trainer.log_probs(batch), batch, strict=True):
            np.testing.assert_allclose(ours, item.rollout_logprobs, atol=0.35)
        losses = [trainer.sft_step(sft_examples(batch)).metrics["loss"] for _ in range(6)]
        sent = payload_tensors(trainer.weights(1))
        trainer.reset_optimizer("ppo")
        assert np.isfinite(list(trainer.ppo_update(batch, 0).metrics.values())).all()
    assert losses[-1] < losses[0] - 0.5
    assert {tensor.dtype for tensor in sent.values()} == {torch.bfloat16}

"""Checkpoints of one rank: the next update after a resume has equal bits, in every stage; damage is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from actor.megatron.checkpoint import CheckpointError
from actor.messages import Experience
from actor.testing import experiences, make_case, one_rank, optim, ppo, sft_examples, trainer_spec

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, list[Experience]]]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("checkpoint")
    case = make_case(folder)
    schedule = optim(warmup_updates=3, decay_style="cosine", decay_updates=20, weight_decay=0.01)
    spec = trainer_spec(case, sft_optim=schedule, actor_optim=schedule, ppo=ppo(kl_coef=0.05, minibatches=2))
    with one_rank(spec, folder) as trainer:
        yield trainer, experiences(case, questions=4, samples=2)


def test_sft_resumes_bitwise(opened: tuple[Any, list[Experience]], tmp_path: Path) -> None:
    trainer, batch = opened
    trainer.reset_optimizer("sft")
    trainer.sft_step(sft_examples(batch))
    trainer.save(str(tmp_path / "saved"))
    wanted = [trainer.sft_step(sft_examples(batch)).metrics for _ in range(2)], trainer.weights(3).checksum
    trainer.load(str(tmp_path / "saved"))
    assert ([trainer.sft_step(sft_examples(batch)).metrics for _ in range(2)], trainer.weights(3).checksum) == wanted


def test_policy_updates_resume_bitwise_from_another_stage(opened: tuple[Any, list[Experience]], tmp_path: Path) -> None:
    """Actor, critic, both optimizers and schedules, reference model and random state come back, whatever ran between."""
    trainer, batch = opened
    trainer.reset_optimizer("ppo")
    trainer.ppo_update(batch, 1)
    trainer.save(str(tmp_path / "saved"))
    drawn = torch.rand(3)
    wanted = [trainer.ppo_update(batch, seed).metrics for seed in (2, 3)], trainer.weights(3).checksum
    values = trainer.values(batch)
    trainer.reset_optimizer("sft")
    trainer.sft_step(sft_examples(batch))
    trainer.load(str(tmp_path / "saved"))
    assert torch.equal(torch.rand(3), drawn)
    assert ([trainer.ppo_update(batch, seed).metrics for seed in (2, 3)], trainer.weights(3).checksum) == wanted
    assert all((a == b).all() for a, b in zip(trainer.values(batch), values, strict=True))


def test_an_incomplete_checkpoint_is_refused_by_name(opened: tuple[Any, list[Experience]], tmp_path: Path) -> None:
    trainer, _ = opened
    with pytest.raises(CheckpointError, match=r"nothing holds no complete trainer checkpoint"):
        trainer.load(str(tmp_path / "nothing"))
    trainer.reset_optimizer("sft")
    trainer.save(str(tmp_path / "cut"))
    (tmp_path / "cut" / "actor" / ".metadata").unlink()
    with pytest.raises(CheckpointError, match=r"cut/actor holds no complete trainer checkpoint"):
        trainer.load(str(tmp_path / "cut"))

"""Checkpoints of one rank: the next update after a resume has equal bits, in every stage; damage is named."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from actor.megatron.checkpoint import CheckpointError
from actor.messages import Experience
from actor.seal import SEAL
from actor.testing import experiences, make_case, one_rank, optim, ppo, sft_examples, trainer_spec
from actor.trainer import TrainerError

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


def test_training_goes_on_while_a_checkpoint_is_written(opened: tuple[Any, list[Experience]], tmp_path: Path) -> None:
    """What is written in the background is what was there when saving began, whatever the next updates do to it."""
    trainer, batch = opened
    trainer.reset_optimizer("ppo")
    trainer.ppo_update(batch, 1)
    trainer.begin_save(str(tmp_path / "saved"), background=True)
    wanted = [trainer.ppo_update(batch, seed).metrics for seed in (2, 3)], trainer.weights(3).checksum
    with pytest.raises(TrainerError, match=r"saved is not finished; call finish_save"):
        trainer.begin_save(str(tmp_path / "next"), background=True)
    trainer.reset_optimizer("sft")
    with pytest.raises(CheckpointError, match=r"saved is no complete checkpoint: manifest\.json"):
        trainer.load(str(tmp_path / "saved"))
    trainer.finish_save()
    assert trainer.save_written()
    trainer.load(str(tmp_path / "saved"))
    assert ([trainer.ppo_update(batch, seed).metrics for seed in (2, 3)], trainer.weights(3).checksum) == wanted


def test_a_write_that_fails_in_the_background_is_told_by_finish(
    opened: tuple[Any, list[Experience]], tmp_path: Path
) -> None:
    """The trainer can save again afterwards."""
    trainer, _ = opened
    trainer.reset_optimizer("sft")
    (tmp_path / "full" / "actor" / "__0_0.distcp").mkdir(parents=True)
    trainer.begin_save(str(tmp_path / "full"), background=True)
    with pytest.raises(CheckpointError, match=r"rank 0 cannot write into .*full: IsADirectoryError"):
        trainer.finish_save()
    assert not list((tmp_path / "full").rglob(SEAL))
    trainer.save(str(tmp_path / "again"))
    trainer.load(str(tmp_path / "again"))


def test_a_folder_without_a_checkpoint_is_refused_by_name(opened: tuple[Any, list[Experience]], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing is no complete checkpoint"):
        opened[0].load(str(tmp_path / "nothing"))


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.fixture(scope="module")
def saved(opened: tuple[Any, list[Experience]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    trainer, batch = opened
    trainer.reset_optimizer("ppo")
    trainer.ppo_update(batch, 1)
    folder = tmp_path_factory.mktemp("whole") / "saved"
    trainer.save(str(folder))
    return folder


@pytest.mark.parametrize(
    ("damage", "name", "said"),
    [
        (cut, "actor/__0_0.distcp", "is torn"),
        (Path.unlink, "critic/__0_0.distcp", "is missing"),
        (flip, "critic/__0_0.distcp", "has changed"),
        (flip, "reference/__0_0.distcp", "has changed"),
        (Path.unlink, "actor/.metadata", "is missing"),
        (flip, "actor/.metadata", "has changed"),
        (Path.unlink, "critic/common.pt", "is missing"),
        (Path.unlink, "actor/metadata.json", "is missing"),
        (flip, "trainer.json", "has changed"),
        (Path.unlink, "trainer.json", "is missing"),
        (Path.unlink, "actor/manifest.json", "is missing"),
        (flip, "critic/manifest.json", "has changed"),
    ],
)
def test_damage_is_refused_by_name_before_anything_is_loaded(
    opened: tuple[Any, list[Experience]], saved: Path, tmp_path: Path, damage: Any, name: str, said: str
) -> None:
    """The critic's file is damaged, and yet the actor keeps what it has: nothing is half loaded."""
    trainer, batch = opened
    shutil.copytree(saved, tmp_path / "copy")
    trainer.reset_optimizer("sft")
    trainer.sft_step(sft_examples(batch))
    before, optimizer = trainer.weights(1).checksum, trainer.actor.optimizer
    damage(tmp_path / "copy" / name)
    with pytest.raises(CheckpointError, match=f"{name} {said}"):
        trainer.load(str(tmp_path / "copy"))
    assert trainer.weights(1).checksum == before and trainer.actor.optimizer is optimizer and trainer.stage == "sft"

"""Stages with settings of their own, exact resumption inside SFT and DPO, and going back to an earlier stage's weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actor.megatron.checkpoint import CheckpointError
from actor.messages import Experience, PreferencePair
from actor.seal import read_seal, seal_of, write_seal
from actor.specs import DpoSpec
from actor.testing import (
    Case,
    experiences,
    make_case,
    one_rank,
    optim,
    ppo,
    preference_pairs,
    sft_examples,
    trainer_spec,
)
from actor.trainer import META_FILE, TrainerError

pytestmark = pytest.mark.slow

OWN = optim(lr=3e-4, min_lr=1e-5, warmup_updates=2, decay_updates=9, decay_style="cosine", weight_decay=0.1)


@dataclass(frozen=True)
class Room:
    """A trainer that was told nothing special, what it can be trained on, and its first weights' folder."""

    trainer: Any
    case: Case
    batch: list[Experience]
    pairs: list[PreferencePair]

    def restart(self) -> None:
        """The model folder's weights again, in stage sft."""
        from actor.megatron import weights
        from rollout import load_weights

        weights.load_tensors(self.trainer.actor.model, load_weights(self.case.model))
        self.trainer.reset_optimizer("sft")


@pytest.fixture(scope="module", params=["float32"])
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("stages")
    case = make_case(folder)
    batch = experiences(case, questions=4, samples=2)
    with one_rank(trainer_spec(case, dtype=request.param), folder) as trainer:
        yield Room(trainer, case, batch, preference_pairs(batch))


@pytest.fixture
def room(opened: Room) -> Room:
    opened.restart()
    return opened


def steps(room: Room, stage: str, first: int, count: int) -> list[dict[str, float]]:
    """`count` steps from step `first` on, each on other data."""
    reports = []
    for i in range(first, first + count):
        if stage == "sft":
            examples = [replace(e, weight=1.0 + (i + j) % 3) for j, e in enumerate(sft_examples(room.batch))]
            reports.append(room.trainer.sft_step(examples[i % 3 :]).metrics)
        else:
            reports.append(room.trainer.dpo_step(room.pairs[i % 2 :]).metrics)
    return reports


@pytest.mark.parametrize(
    ("opened", "stage", "settings"),
    [
        ("float32", "sft", {}),
        ("float32", "sft", {"optim": OWN}),
        ("float32", "dpo", {}),
        ("float32", "dpo", {"optim": OWN, "dpo": DpoSpec(0.3, 0.1, 0.2)}),
        ("bfloat16", "sft", {"optim": OWN}),  # float32 main weights beside the model's
    ],
    ids=["sft", "sft with its own optimizer", "dpo", "dpo with its own settings", "bfloat16"],
    indirect=["opened"],
)
def test_six_steps_are_three_a_checkpoint_and_three(
    room: Room, tmp_path: Path, stage: str, settings: dict[str, Any]
) -> None:
    trainer = room.trainer
    trainer.reset_optimizer(stage, **settings)
    straight = steps(room, stage, 0, 6), trainer.weights(6).checksum
    room.restart()
    trainer.reset_optimizer(stage, **settings)
    first = steps(room, stage, 0, 3)
    trainer.save(str(tmp_path / "saved"))
    resumed = anew(room)
    resumed.trainer.load(str(tmp_path / "saved"))
    second = steps(resumed, stage, 3, 3)
    assert (first + second, resumed.trainer.weights(6).checksum) == straight


def test_a_policy_stage_keeps_its_own_settings_and_its_reference_over_a_checkpoint(room: Room, tmp_path: Path) -> None:
    """KL penalty, epochs and both schedules of this stage alone; the trainer's own have none of them."""
    trainer = room.trainer
    settings = ppo(kl_coef=0.05, epochs=2, minibatches=2)
    critic_optim = replace(OWN, lr=7e-4)
    trainer.reset_optimizer("ppo", OWN, critic_optim, settings)
    report = trainer.ppo_update(room.batch, 1).metrics
    assert report["reference_kl"] > 0
    trainer.save(str(tmp_path / "saved"))
    wanted = [trainer.ppo_update(room.batch, seed).metrics for seed in (2, 3)], trainer.weights(3).checksum
    assert wanted[0][0]["actor_lr"] != wanted[0][0]["critic_lr"] != report["critic_lr"]
    resumed = anew(room).trainer
    resumed.load(str(tmp_path / "saved"))
    assert ([resumed.ppo_update(room.batch, seed).metrics for seed in (2, 3)], resumed.weights(3).checksum) == wanted
    resumed.reset_optimizer("ppo")
    assert resumed.reference is None and "reference_kl" not in resumed.ppo_update(room.batch, 1).metrics


def test_the_checkpoint_names_what_the_stage_was_told_and_nothing_else(room: Room, tmp_path: Path) -> None:
    room.trainer.save(str(tmp_path / "plain"))
    assert json.loads((tmp_path / "plain" / META_FILE).read_text()) == {"stage": "sft"}
    room.trainer.reset_optimizer("dpo", OWN)
    room.trainer.save(str(tmp_path / "own"))
    meta = json.loads((tmp_path / "own" / META_FILE).read_text())
    assert meta.keys() == {"stage", "optim"} and meta["optim"]["lr"] == OWN.lr
    del meta["optim"]["lr"]
    (tmp_path / "own" / META_FILE).write_text(json.dumps(meta))
    kept = read_seal(tmp_path / "own").files
    write_seal(tmp_path / "own", {**kept, **seal_of([tmp_path / "own" / META_FILE], tmp_path / "own")}, {})
    with pytest.raises(CheckpointError, match=r"own holds no complete trainer checkpoint: .*lr"):
        room.trainer.load(str(tmp_path / "own"))


def test_settings_that_a_stage_does_not_use_are_refused_and_change_nothing(room: Room) -> None:
    trainer, optimizer = room.trainer, room.trainer.actor.optimizer
    with pytest.raises(TrainerError, match='ppo is for stage "ppo", not for stage "sft"'):
        trainer.reset_optimizer("sft", ppo=ppo())
    with pytest.raises(TrainerError, match="there is no stage 'rl'; stages are sft, ppo, dpo"):
        trainer.reset_optimizer("rl")
    assert trainer.stage == "sft" and trainer.actor.optimizer is optimizer


def test_saved_weights_come_back_alone(room: Room, tmp_path: Path) -> None:
    """Equal log-probs, the stage begun anew with a fresh optimizer, random state left alone."""
    trainer = room.trainer
    steps(room, "sft", 0, 2)
    trainer.save(str(tmp_path / "earlier"))
    saved, checksum = trainer.log_probs(room.batch), trainer.weights(2).checksum
    trainer.reset_optimizer("sft", OWN)
    wanted = steps(room, "sft", 0, 2), trainer.weights(4).checksum
    trainer.reset_optimizer("dpo")
    steps(room, "dpo", 0, 2)
    trainer.reset_optimizer("sft", OWN)
    steps(room, "sft", 1, 1)
    random_state = torch.get_rng_state()
    trainer.load_weights_only(str(tmp_path / "earlier"))
    assert torch.equal(torch.get_rng_state(), random_state)
    for ours, theirs in zip(trainer.log_probs(room.batch), saved, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert trainer.weights(2).checksum == checksum
    assert (steps(room, "sft", 0, 2), trainer.weights(4).checksum) == wanted


def test_a_policy_stage_gives_its_actor_and_begins_its_critic_and_reference_anew(room: Room, tmp_path: Path) -> None:
    trainer = room.trainer
    trainer.reset_optimizer("ppo", ppo=ppo(kl_coef=0.1))
    trainer.ppo_update(room.batch, 1)
    trainer.save(str(tmp_path / "policy"))
    checksum = trainer.weights(1).checksum
    trainer.ppo_update(room.batch, 2)
    trainer.load_weights_only(str(tmp_path / "policy"))
    assert trainer.weights(1).checksum == checksum
    assert all((values == 0).all() for values in trainer.values(room.batch))
    assert trainer.ppo_update(room.batch, 3).metrics["reference_kl"] == 0
    with pytest.raises(CheckpointError, match="nothing/actor is no complete checkpoint"):
        trainer.load_weights_only(str(tmp_path / "nothing"))


def anew(room: Room) -> Room:
    """The same trainer built again in the same world, as a run that starts again has it."""
    from actor.trainer import Trainer

    return replace(room, trainer=Trainer(room.trainer.spec, room.trainer.world))

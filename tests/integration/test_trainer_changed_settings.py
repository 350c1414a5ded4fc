"""Going on inside a stage with other settings than those it was saved with: they hold, and moments and step counts stay."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from actor import DpoSpec, StageSettings, TrainerSpec
from actor.messages import Experience
from actor.testing import experiences, make_case, one_rank, optim, ppo, preference_pairs, sft_examples, trainer_spec
from actor.trainer import TrainerError

pytestmark = pytest.mark.slow

A = optim(lr=1e-4)
B = optim(lr=5e-5)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, list[Experience]]]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("changed")
    case = make_case(folder)
    with one_rank(trainer_spec(case), folder) as trainer:
        yield trainer, experiences(case, questions=3, samples=2)


def anew(trainer: Any, spec: TrainerSpec | None = None) -> Any:
    """A trainer built again in the same world, as a run that starts again has it."""
    from actor.trainer import Trainer

    return Trainer(spec or trainer.spec, trainer.world)


def moved(trainer: Any, batch: list[Experience]) -> tuple[dict[str, float], torch.Tensor]:
    """Metrics of one SFT step, and what it added to the weights."""
    before = torch.cat([p.detach().double().flatten() for p in trainer.actor.model.parameters()])
    metrics = trainer.sft_step(sft_examples(batch)).metrics
    after = torch.cat([p.detach().double().flatten() for p in trainer.actor.model.parameters()])
    return metrics, after - before


@pytest.mark.parametrize("where", ["given", "trainer's own"])
def test_a_changed_learning_rate_holds_and_moments_stay(
    opened: tuple[Any, list[Experience]], tmp_path: Path, where: str
) -> None:
    """From equal moments and step count, half the rate makes half the step."""
    trainer, batch = opened
    given = where == "given"
    spec = trainer.spec if given else replace(trainer.spec, sft_optim=A)
    saved = anew(trainer, spec)
    saved.reset_optimizer("sft", A if given else None)
    for part in (batch[:2], batch[2:]):
        saved.sft_step(sft_examples(part))
    saved.save(str(tmp_path / "saved"))
    unchanged, whole = moved(saved, batch)
    resumed = anew(trainer, spec if given else replace(spec, sft_optim=B))
    resumed.load(str(tmp_path / "saved"), StageSettings("sft", B) if given else None)
    changed, half = moved(resumed, batch)
    assert (unchanged["lr"], changed["lr"]) == (A.lr, B.lr)
    assert changed["loss"] == unchanged["loss"]
    assert float((half - whole / 2).abs().max()) < 0.01 * float(half.abs().max())
    resumed.save(str(tmp_path / "again"))
    kept = anew(trainer, spec)
    kept.load(str(tmp_path / "again"))
    assert moved(kept, batch)[0]["lr"] == (B.lr if given else A.lr)


@pytest.mark.parametrize("saved_at", [1, 3], ids=["in the warm-up", "in the decay"])
def test_another_schedule_goes_on_at_the_saved_number_of_updates(
    opened: tuple[Any, list[Experience]], tmp_path: Path, saved_at: int
) -> None:
    trainer, batch = opened
    old = optim(lr=1e-4, min_lr=1e-5, warmup_updates=2, decay_updates=20, decay_style="linear", weight_decay=0.1)
    new = replace(
        old, lr=8e-5, min_lr=2e-5, warmup_updates=4, decay_updates=7, decay_style="cosine", weight_decay=0.2, beta1=0.8
    )
    trainer.reset_optimizer("sft", new)
    wanted = [trainer.sft_step(sft_examples(batch)).metrics["lr"] for _ in range(8)]
    trainer.reset_optimizer("sft", old)
    for _ in range(saved_at):
        trainer.sft_step(sft_examples(batch))
    trainer.save(str(tmp_path / "saved"))
    trainer.load(str(tmp_path / "saved"), StageSettings("sft", new))
    assert [trainer.sft_step(sft_examples(batch)).metrics["lr"] for _ in range(8 - saved_at)] == wanted[saved_at:]
    groups = trainer.actor.optimizer.megatron.param_groups
    assert {group["betas"] for group in groups} == {(0.8, 0.95)}
    assert {group["weight_decay"] for group in groups} == {0.0, 0.2}  # biases and norms have none


def test_beta_changes_inside_preference_training(opened: tuple[Any, list[Experience]], tmp_path: Path) -> None:
    trainer, batch = opened
    pairs = preference_pairs(batch)
    trainer.reset_optimizer("dpo", A, dpo=DpoSpec(beta=0.1))
    trainer.dpo_step(pairs)
    trainer.save(str(tmp_path / "saved"))
    before = trainer.dpo_step(pairs).metrics
    trainer.load(str(tmp_path / "saved"), StageSettings("dpo", A, dpo=DpoSpec(beta=0.3)))
    after = trainer.dpo_step(pairs).metrics
    assert abs(before["margin"]) > 1e-4
    assert after["margin"] == pytest.approx(3 * before["margin"], rel=1e-5)


def test_a_kl_penalty_is_switched_on_and_off(
    opened: tuple[Any, list[Experience]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Switched on, the loaded actor is the reference, also in later checkpoints; switched off, there is none."""
    trainer, batch = opened
    penalised = StageSettings("ppo", ppo=ppo(kl_coef=0.1))
    trainer.reset_optimizer("ppo")
    trainer.ppo_update(batch, 1)
    trainer.save(str(tmp_path / "without"))
    trainer.ppo_update(batch, 2)
    with caplog.at_level(logging.WARNING, logger="actor.trainer"):
        trainer.load(str(tmp_path / "without"), penalised)
    assert (
        "without has no reference model, but kl_coef is 0.1: the actor just loaded becomes the reference" in caplog.text
    )
    assert [trainer.ppo_update(batch, seed).metrics["reference_kl"] > 0 for seed in (2, 3)] == [False, True]
    trainer.save(str(tmp_path / "with"))
    wanted = trainer.ppo_update(batch, 4).metrics["reference_kl"]
    caplog.clear()
    trainer.load(str(tmp_path / "with"), penalised)
    assert trainer.ppo_update(batch, 4).metrics["reference_kl"] == wanted
    assert "has no reference model" not in caplog.text
    trainer.load(str(tmp_path / "with"), StageSettings("ppo"))
    assert trainer.reference is None and "reference_kl" not in trainer.ppo_update(batch, 4).metrics


def test_the_same_settings_given_change_no_bit(opened: tuple[Any, list[Experience]], tmp_path: Path) -> None:
    trainer, batch = opened
    settings = StageSettings("ppo", A, B, ppo(kl_coef=0.05, minibatches=2))
    trainer.reset_optimizer("ppo", settings.optim, settings.critic_optim, settings.ppo)
    trainer.ppo_update(batch, 1)
    trainer.save(str(tmp_path / "saved"))
    wanted = trainer.ppo_update(batch, 2).metrics, trainer.weights(2).checksum
    resumed = anew(trainer)
    resumed.load(str(tmp_path / "saved"), settings)
    assert (resumed.ppo_update(batch, 2).metrics, resumed.weights(2).checksum) == wanted


def test_settings_of_another_stage_are_refused_and_change_nothing(
    opened: tuple[Any, list[Experience]], tmp_path: Path
) -> None:
    trainer, _ = opened
    trainer.reset_optimizer("sft", A)
    trainer.save(str(tmp_path / "saved"))
    optimizer = trainer.actor.optimizer
    with pytest.raises(TrainerError, match="saved was saved in stage 'sft' and cannot go on in stage 'dpo'"):
        trainer.load(str(tmp_path / "saved"), StageSettings("dpo"))
    assert trainer.actor.optimizer is optimizer and trainer.settings == StageSettings("sft", A)

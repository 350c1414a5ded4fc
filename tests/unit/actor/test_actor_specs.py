"""Specs that cannot work say so where they are made; importing the package stays light."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from actor.layout import Layout
from actor.specs import DpoSpec, StageSettings
from actor.testing import Case, optim, ppo, trainer_spec

CASE = Case(Path("model"), Path("features"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"critic_layout": Layout(data=2)}, "share ranks, so both must fill them"),
        (
            {"critic": False, "ppo": ppo(advantage_estimator="grpo"), "critic_apart": True},
            "for a trainer with critic=True",
        ),
        ({"dtype": "float16"}, "dtype must be float32 or bfloat16"),
        ({"device": "tpu"}, "device must be cpu or cuda"),
        ({"critic": False}, "needs critic=True"),
        ({"recompute": "all"}, "recompute must be one of none, selective, full"),
        ({"head_chunk_vocab": 0}, "head_chunk_vocab must be at least 1"),
        ({"lora_rank": 8, "lora_alpha": 0.0}, "lora_alpha above 0"),
    ],
)
def test_impossible_trainers_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trainer_spec(CASE, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decay_style": "sudden"}, "decay_style must be one of constant, linear, cosine"),
        ({"warmup_updates": 1000}, "below decay_updates"),
        ({"min_lr": 1.0}, "min_lr must lie between 0 and lr"),
    ],
)
def test_impossible_schedules_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        optim(**changes)


def test_one_epoch_of_one_minibatch_is_on_policy() -> None:
    assert ppo().on_policy
    assert not ppo(epochs=2).on_policy
    assert not ppo(minibatches=2).on_policy


def test_a_critic_free_estimator_needs_no_critic() -> None:
    assert trainer_spec(CASE, critic=False, ppo=ppo(advantage_estimator="grpo")).world_size == 1


def test_ranks_of_the_critic_are_its_own_only_when_it_lives_apart() -> None:
    shared = trainer_spec(CASE, layout=Layout(data=2), critic_layout=Layout(tensor=2))
    assert (shared.world_size, shared.of_critic) == (2, Layout(tensor=2))
    assert trainer_spec(CASE, layout=Layout(data=2), critic_apart=True).world_size == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stage": "rl"}, "there is no stage 'rl'; stages are sft, ppo, dpo"),
        ({"stage": "sft", "ppo": ppo()}, 'ppo is for stage "ppo", not for stage "sft"'),
        ({"stage": "dpo", "critic_optim": optim()}, 'critic_optim is for stage "ppo", not for stage "dpo"'),
        ({"stage": "ppo", "dpo": DpoSpec()}, 'dpo is for stage "dpo", not for stage "ppo"'),
    ],
)
def test_settings_that_a_stage_does_not_use_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StageSettings(**arguments)


@pytest.mark.parametrize(
    "settings",
    [
        StageSettings("sft"),
        StageSettings("sft", optim(lr=3e-4)),
        StageSettings("ppo", optim(), optim(lr=5e-5), ppo(kl_coef=0.1)),
        StageSettings("dpo", dpo=DpoSpec(0.2, 0.1, 0.5)),
    ],
)
def test_stage_settings_survive_json(settings: StageSettings) -> None:
    assert StageSettings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


def test_a_stage_takes_the_trainers_settings_where_it_has_none() -> None:
    spec = trainer_spec(CASE, sft_optim=optim(lr=1e-2), actor_optim=optim(lr=1e-4))
    assert StageSettings("sft").actor_optim(spec).lr == 1e-2
    assert [StageSettings(stage).actor_optim(spec).lr for stage in ("ppo", "dpo")] == [1e-4, 1e-4]
    assert StageSettings("sft", optim(lr=3e-4)).actor_optim(spec).lr == 3e-4
    assert StageSettings("ppo", ppo=ppo(kl_coef=0.1)).ppo_spec(spec).kl_coef == 0.1
    critic_free = trainer_spec(CASE, critic=False, ppo=ppo(advantage_estimator="grpo"))
    with pytest.raises(ValueError, match="needs critic=True"):
        StageSettings("ppo", ppo=ppo()).ppo_spec(critic_free)


def test_importing_the_package_loads_neither_torch_nor_ray() -> None:
    code = "import sys, actor; from actor import TrainerSpec, Experience; print(sorted({'torch', 'ray'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == "[]"

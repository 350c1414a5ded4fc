"""Specs that cannot work say so where they are made; importing the package stays light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from actor.testing import Case, optim, ppo, trainer_spec

CASE = Case(Path("model"), Path("features"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"world_size": 3, "tensor_parallel": 2}, "must divide world_size"),
        ({"dtype": "float16"}, "dtype must be float32 or bfloat16"),
        ({"device": "tpu"}, "device must be cpu or cuda"),
        ({"critic": False}, "needs critic=True"),
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
    assert trainer_spec(CASE, critic=False, ppo=ppo(advantage_estimator="grpo")).data_parallel == 1


def test_importing_the_package_loads_neither_torch_nor_ray() -> None:
    code = "import sys, actor; from actor import TrainerSpec, Experience; print(sorted({'torch', 'ray'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == "[]"

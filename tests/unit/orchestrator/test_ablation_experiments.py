"""Every ablation differs from what it is compared with in nothing but what it is about."""

from __future__ import annotations

import dataclasses
from functools import cache

import pytest

from orchestrator.config.compose import CONF_DIR, compose_config, flat
from orchestrator.config.schema import ExperimentConfig
from orchestrator.datasets.text_reasoning import text_questions
from orchestrator.pipeline import stages_of

ARMS = [
    ("mgrd_tiny_correct_only", "mgrd_tiny", {"pipeline.distil.grounding", "pipeline.distil.consistency"}),
    ("mgrd_tiny_rl_alone", "mgrd_tiny", {"pipeline.refine.steps", "pipeline.sentinels.think_length"}),
    (
        "ablate_no_think_reward",
        "ablate_think_reward",
        {"reward.terms.answer.audio", "reward.terms.think_present.audio"},
    ),
    ("ablate_select_0", "ablate_select_3_6", {"pipeline.select.keep_min", "pipeline.select.keep_max"}),
    ("ablate_unfiltered", "ablate_select_3_6", {"pipeline.select.keep_min", "pipeline.select.keep_max"}),
    ("ablate_surrogate", "ablate_acoustic", {"pipeline.sft.style"}),
]


@cache
def composed(*overrides: str) -> ExperimentConfig:
    return compose_config([f"experiment={overrides[0]}", *overrides[1:]])


def stages(name: str) -> list[str]:
    return [stage.name for stage in stages_of(composed(name))]


@pytest.mark.parametrize(("arm", "other", "keys"), ARMS, ids=[arm for arm, _, _ in ARMS])
def test_two_arms_differ_in_what_is_compared_alone(arm: str, other: str, keys: set[str]) -> None:
    one, two = flat(composed(arm)), flat(composed(other))
    assert {key for key in one.keys() | two.keys() if one.get(key) != two.get(key)} == keys | {"run.name"}


def test_every_experiment_is_named_after_its_file() -> None:
    for path in (CONF_DIR / "experiment").glob("*.yaml"):
        if path.stem != "empty":
            assert composed(path.stem).run.name == path.stem


def test_a_change_of_the_recipe_carries_over() -> None:
    plain = composed("mgrd_tiny")
    for path in (CONF_DIR / "experiment").glob("*.yaml"):
        if path.stem.startswith(("mgrd_tiny_", "ablate_")):
            arm = composed(path.stem)
            assert arm.actor == plain.actor and arm.model == plain.model
            assert arm.data == dataclasses.replace(plain.data, text_questions=arm.data.text_questions)
            assert arm.pipeline.cold_start.mix == plain.pipeline.cold_start.mix


def test_an_arm_from_a_finished_cold_start_measures_it_first_and_trains_once() -> None:
    with_refine = ["t1.perceive", "t1.distil", "t1.refine"]
    ends = ["t1.select", "t1.reinforce", "evaluate.t1", "export"]
    assert stages("ablate_think_reward") == ["evaluate.cold_start", *with_refine, *ends]
    assert stages("ablate_select_3_6") == ["evaluate.cold_start", *ends]
    config = composed("ablate_select_3_6", "model.path=runs/mgrd_tiny-seed11/models/cold_start")
    assert config.model.path.endswith("models/cold_start")
    first = next(stage for stage in stages_of(config) if stage.kind == "reinforce")
    assert first.first_update == 0


def test_held_out_text_does_not_depend_on_how_much_text_there_is_to_train_on() -> None:
    assert composed("ablate_select_3_6").data.text_questions == 8
    many, few = (text_questions(7, {"held_out": 6, "train": train}) for train in (12, 8))
    assert many["held_out"] == few["held_out"] and len(few["train"]) == 8


def test_rl_alone_has_the_same_policy_updates_as_the_recipe() -> None:
    def numbers(name: str) -> list[tuple[str, int]]:
        return [(s.name, s.first_update) for s in stages_of(composed(name)) if s.kind == "reinforce"]

    assert numbers("mgrd_tiny_rl_alone") == numbers("mgrd_tiny")
    assert not any(name.endswith(("distil", "refine", "perceive")) for name in stages("mgrd_tiny_rl_alone"))


def test_a_style_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(Exception, match="acoustic, surrogate"):
        composed("ablate_acoustic", "pipeline.sft.style=caption")

"""The recipe as data: names, order, needs, numbers of policy updates, settings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.compose import compose_config
from orchestrator.config.schema import ExperimentConfig
from orchestrator.pipeline import settings_of, stages_of, summary
from orchestrator.stages.runners import RUNNERS


def mgrd(**values: int) -> ExperimentConfig:
    config = ExperimentConfig()
    config.pipeline.recipe = "mgrd"
    config.pipeline.iterations = values.get("iterations", 2)
    config.pipeline.reinforce.updates = values.get("updates", 30)
    config.pipeline.cold_start.reinforce.updates = values.get("text_updates", 10)
    config.pipeline.align.steps = values.get("align", 20)
    config.pipeline.refine.steps = values.get("refine", 20)
    return config


def test_the_recipe_rl_has_the_stages_of_the_demo():
    names = [stage.name for stage in stages_of(compose_config(["experiment=demo"]))]
    assert names == ["sft", "evaluate_before", "select", "reinforce", "evaluate_after", "export"]


def test_the_whole_recipe_has_the_stages_of_the_paper_in_their_order():
    names = [stage.name for stage in stages_of(mgrd(iterations=1))]
    assert names == [
        *("cold_start.chains", "cold_start.sft", "cold_start.select", "cold_start.reinforce", "evaluate.cold_start"),
        *("t1.perceive", "t1.distil", "t1.refine", "t1.select", "t1.reinforce", "evaluate.t1"),
        *("align", "evaluate.align", "export"),
    ]


@given(
    iterations=st.integers(0, 4),
    updates=st.integers(0, 50),
    text_updates=st.integers(0, 20),
    align=st.integers(0, 3),
    refine=st.integers(0, 3),
)
def test_stages_need_only_earlier_ones_and_number_policy_updates_without_gap(**values: int):
    config = mgrd(**values)
    seen: set[str] = set()
    updates = 0
    for stage in stages_of(config):
        assert stage.name not in seen
        assert set(stage.needs) <= seen
        assert stage.kind in RUNNERS
        assert summary(stage, config)
        if stage.kind == "reinforce":
            assert stage.first_update == updates
            updates += values["text_updates"] if stage.name.startswith("cold_start") else values["updates"]
        seen.add(stage.name)
    assert stages_of(config)[-1].kind == "export"


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("pipeline.distil.samples=5", {"t1.distil", "t2.distil"}),
        ("pipeline.refine.lr=1e-5", {"t1.refine", "t2.refine"}),
        ("actor.actor_optim.lr=1e-5", {"cold_start.reinforce", "t1.reinforce", "t2.reinforce"}),
        ("run.checkpoint_every=7", set()),
    ],
)
def test_a_key_changes_the_settings_of_the_stages_that_use_it(key: str, changes: set[str]):
    before, after = compose_config(["experiment=mgrd_tiny"]), compose_config(["experiment=mgrd_tiny", key])
    changed = {s.name for s in stages_of(before) if settings_of(s, before) != settings_of(s, after)}
    assert changed == changes

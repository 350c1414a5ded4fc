"""`mgrd resume` goes on with what the run stored and with the overrides given now, or refuses before anything starts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli import REFUSED, app
from orchestrator.config.compose import compose_config, from_yaml, to_yaml
from orchestrator.config.resume import lasting, refuse_another_run, resumed_config
from orchestrator.config.schema import ExperimentConfig
from orchestrator.errors import ConfigError


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    stored(tmp_path, f"run.dir={tmp_path}")
    return tmp_path


def stored(directory: Path, *overrides: str) -> ExperimentConfig:
    config = compose_config(["experiment=micro", "reward.terms.pitch.weight=0.1", *overrides])
    (directory / "config.yaml").write_text(to_yaml(config))
    return config


def test_without_overrides_only_the_mark_of_resuming_is_new(directory: Path) -> None:
    before = from_yaml(directory / "config.yaml")
    config = resumed_config(directory, [])
    assert config == dataclasses.replace(before, run=dataclasses.replace(before.run, resume=True))
    assert config.reward.terms["pitch"].weight == 0.1


def test_overrides_change_what_they_name_and_nothing_else(directory: Path) -> None:
    overrides = [
        "pipeline.sentinels.think_length=null",
        "actor.actor_optim.lr=1e-5",
        "reward.terms.pitch.weight=0.3",
        "reward.terms.new.weight=0.2",
        "~reward.terms.think_present",
        "actor.freeze=[]",
        "pipeline.sentinels={window: 3}",
    ]
    config = resumed_config(directory, overrides)
    assert config.pipeline.sentinels == dataclasses.replace(
        resumed_config(directory, []).pipeline.sentinels, think_length=None, window=3
    )
    assert (config.actor.actor_optim.lr, config.actor.freeze) == (1e-5, [])
    assert {name: term.weight for name, term in config.reward.terms.items()} == {
        "answer": None,
        "pitch": 0.3,
        "new": 0.2,
    }
    assert config.actor.critic_optim == resumed_config(directory, []).actor.critic_optim


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["actor.ppo.clip_hihg=.2"], ["unknown configuration key", "did you mean actor.ppo.clip_high"]),
        (["pipeline.sentinels.think_lenght=0"], ["did you mean pipeline.sentinels.think_length"]),
        (["reward.terms.pitch.wieght=1"], ["did you mean reward.terms.pitch.weight?"]),
        (["pipeline.sentinels={windw: 3}"], ["windw"]),
        (["rollout.workers=abc"], ["rollout.workers", "Integer"]),
        (["rollout.workers=1,2"], ["several values"]),
        (["run.keep_checkpoints"], ["no override", "key=value"]),
        (["actor.ppo.gamma=2", "run.keep_checkpoints=0"], ["actor.ppo.gamma = 2.0", "must keep at least 1"]),
        (["experiment=demo"], ["names a group"]),
        (["run.seed=3"], ["start another run"]),
        (["run={seed: 3}"], ["one by one"]),
        (["run.dir=/elsewhere"], ["in the directory given"]),
        (["~rollout.workers"], ["deletes nothing"]),
        (["~reward.terms.none"], ["deletes nothing"]),
    ],
)
def test_a_refused_override_says_why_and_starts_nothing(
    directory: Path, overrides: list[str], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as refusal:
        resumed_config(directory, overrides)
    assert [word for word in words if word not in str(refusal.value)] == []
    before = (directory / "config.yaml").read_bytes()
    result = CliRunner().invoke(app, ["resume", str(directory), *overrides])
    assert result.exit_code == REFUSED
    assert [path.name for path in directory.iterdir()] == ["config.yaml"]  # no lock, no log, no state
    assert (directory / "config.yaml").read_bytes() == before


def test_a_directory_that_holds_no_run_is_refused_and_not_made(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["resume", str(tmp_path / "none")])
    assert result.exit_code == REFUSED
    assert "nothing to resume" in result.output
    assert not (tmp_path / "none").exists()


def test_a_run_that_was_moved_goes_on_where_it_is_and_one_that_was_not_keeps_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = tmp_path / "runs" / "micro-seed11"
    here.mkdir(parents=True)
    stored(here)
    assert resumed_config(Path("runs/micro-seed11"), []).run.dir == ""
    moved = here.rename(tmp_path / "moved")
    assert resumed_config(moved, []).run.dir == str(moved)


@pytest.mark.parametrize("name", ["mean", "std", "mixed_questions"])
def test_a_reward_may_not_take_the_name_of_a_figure_of_the_whole_reward(name: str) -> None:
    for override in (
        [f"reward.terms.{name}.weight=1"],
        [f"reward.joint.{name}.of=[answer]", f"reward.joint.{name}.weight=1"],
    ):
        with pytest.raises(ConfigError, match=f"reward/{name} is a figure of the whole reward"):
            compose_config(override)


@pytest.mark.parametrize("override", ["window=0", "warmup=-1", "think_length=1", "invalid=-0.1", "mismatch_max=-1"])
def test_a_sentinel_threshold_out_of_range_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match=f"pipeline.sentinels.{override.partition('=')[0]} = "):
        compose_config([f"pipeline.sentinels.{override}"])


def test_what_holds_for_one_start_is_not_stored():
    config = compose_config(["experiment=demo", "run.resume=true", "run.redo=true", "reward.accept_changes=true"])
    assert lasting(config) == compose_config(["experiment=demo"])


@pytest.mark.parametrize("override", ["run.seed=12", "pipeline.recipe=mgrd", "model.path=/elsewhere"])
def test_another_run_is_not_taken_for_the_stored_one(override):
    stored = compose_config(["experiment=demo"])
    refuse_another_run(stored, compose_config(["experiment=demo", "pipeline.select.questions=100"]))
    with pytest.raises(ConfigError, match="the run to resume is another one"):
        refuse_another_run(stored, compose_config(["experiment=demo", override]))

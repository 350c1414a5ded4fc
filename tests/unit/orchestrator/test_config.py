"""Overrides that are refused say what is wrong and what is near."""

import pytest

from orchestrator.config.compose import compose_config, flat, from_yaml, known_keys, to_yaml
from orchestrator.config.schema import ExperimentConfig
from orchestrator.errors import ConfigError


def test_an_experiment_and_single_keys_override_defaults():
    config = compose_config(["experiment=micro", "actor.actor_optim.lr=1e-5", "run.seed=3"])
    assert config.run.name == "micro"
    assert config.actor.actor_optim.lr == 1e-5
    assert config.run.seed == 3
    assert config.reward.terms["answer"].audio == 0.8


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("actor.actor_optim.lrr=1", ["unknown configuration key", "actor.actor_optim.lr"]),
        ("rollout.temperatur=1", ["rollout.temperature"]),
        ("experiment=dmo", ["no experiment named", "demo"]),
        ("actor.ppo.gamma=2", ["actor.ppo.gamma = 2.0", "at most 1"]),
        ("rollout.workers=abc", ["rollout.workers", "Integer"]),
        ("run.seed", ["no override", "key=value"]),
        ("actor.world_size=3 actor.tensor_parallel=2", ["actor.tensor_parallel = 2", "divide"]),
    ],
)
def test_a_bad_override_is_refused_with_a_hint(override, words):
    with pytest.raises(ConfigError) as refusal:
        compose_config(override.split())
    for word in words:
        assert word in str(refusal.value)


def test_every_problem_is_reported_at_once():
    with pytest.raises(ConfigError) as refusal:
        compose_config(["run.seed=-1", "rollout.workers=0", "pipeline.select.keep_max=9"])
    assert str(refusal.value).count("\n  - ") == 3


def test_the_stored_config_reruns_the_same_experiment(tmp_path):
    config = compose_config(["experiment=micro", "reward=answer_only", "run.seed=5"])
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    assert from_yaml(path) == config


def test_every_leaf_of_the_schema_is_a_known_key():
    keys = set(known_keys())
    for key in flat(ExperimentConfig()):
        assert key in keys or key.startswith("reward.terms")

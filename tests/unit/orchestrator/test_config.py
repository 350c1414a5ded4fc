"""Overrides that are refused say what is wrong and what is near."""

import pytest

from orchestrator.config.compose import compose_config, flat, from_yaml, known_keys, to_yaml
from orchestrator.config.schema import ExperimentConfig
from orchestrator.errors import ConfigError
from orchestrator.specs import reward_spec


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
        ("actor.recompute=some", ["actor.recompute = 'some'", "none, selective, full"]),
        ("rollout.gpu_memory_utilization=1.2", ["rollout.gpu_memory_utilization = 1.2", "at most 1"]),
        ("cluster.gpus_per_node=8", ["cluster.gpus_per_node = 8", "goes with cluster.nodes"]),
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


def test_a_reward_term_of_a_new_name_is_made_by_its_first_key():
    config = compose_config(
        ["reward.terms.pitch_named.weight=0.1", "reward.terms.pitch_named.version=sha256:0123456789ab"]
    )
    term = config.reward.terms["pitch_named"]
    assert (term.weight, term.audio, term.version) == (0.1, None, "sha256:0123456789ab")
    assert config.reward.terms["answer"].audio == 0.8


def test_parameters_data_sets_and_joint_terms_take_any_key_below_them():
    config = compose_config(
        [
            "reward.terms.answer.parameters.by=letter",
            "reward.terms.answer.datasets.mmau=0.5",
            "reward.joint.both.of=[answer,think_present]",
            "reward.joint.both.audio=0.3",
        ]
    )
    assert config.reward.terms["answer"].parameters == {"by": "letter"}
    assert config.reward.terms["answer"].datasets == {"mmau": 0.5}
    assert config.reward.joint["both"].of == ["answer", "think_present"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("reward.terms.pitch.wieght=0.1", ["did you mean reward.terms.pitch.weight?"]),
        ("reward.terms.pitch.weight=loud", ["could not be converted to Float"]),
        ("reward.terms.pitch.version=sha256:0123456789ab", ["reward.terms.pitch: has no weight"]),
        ("reward.joint.both.off=1", ["reward.joint.both.of"]),
        ("reward.max_invalid_share=2", ["between 0 and 1"]),
    ],
)
def test_a_bad_reward_override_is_refused_with_a_hint(override, words):
    with pytest.raises(ConfigError) as refusal:
        compose_config([override])
    for word in words:
        assert word in str(refusal.value)


def test_a_default_term_that_was_removed_stays_removed_in_the_stored_config(tmp_path):
    config = compose_config(["~reward.terms.think_present"])
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    assert list(from_yaml(path).reward.terms) == ["answer"]


def test_weights_become_terms_by_modality_and_data_set():
    spec = reward_spec(compose_config(["reward.terms.pitch.weight=0.1", "reward.terms.answer.datasets.mmau=0.5"]))
    found = {(term.name, term.modality, term.dataset): term.weight for term in spec.terms}
    assert found == {
        ("answer", "audio", ""): 0.8,
        ("answer", "text", ""): 1.0,
        ("answer", "any", "mmau"): 0.5,
        ("think_present", "audio", ""): 0.2,
        ("think_present", "text", ""): 0.0,
        ("pitch", "audio", ""): 0.1,
        ("pitch", "text", ""): 0.1,
    }

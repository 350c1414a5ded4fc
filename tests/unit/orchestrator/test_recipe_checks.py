"""Bad values of the recipe's keys are refused, all at once, by name."""

import pytest

from orchestrator.config.compose import compose_config
from orchestrator.errors import ConfigError


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("pipeline.recipe=mgdr", "must be one of rl, mgrd"),
        ("pipeline.iterations=-1", "pipeline.iterations = -1"),
        ("pipeline.cold_start.mix.conversation=-0.5", "shares must be 0 or more"),
        ("pipeline.cold_start.select.keep_max=9", "pipeline.cold_start.select.keep_max = 9"),
        ("pipeline.cold_start.reinforce.questions=64", "a batch holds no question twice"),
        ("pipeline.reinforce.truncated=drop", "must be one of score, zero, invalid"),
        ("pipeline.refine.text_share=1.0", "must be at least 0 and below 1"),
        ("pipeline.distil.min_tokens=90", "must be between 0 and max_tokens"),
        ("pipeline.distil.against=ears", "must be truth, clip or either"),
        ("pipeline.align.beta=0", "must be above 0"),
        ("pipeline.align.lr=2", "pipeline.align.lr = 2"),
    ],
)
def test_a_bad_value_is_refused_with_its_rule(override, words):
    with pytest.raises(ConfigError) as refusal:
        compose_config(["experiment=mgrd_tiny", override])
    assert words in str(refusal.value)


def test_keys_of_the_whole_recipe_do_not_hinder_the_short_one():
    assert compose_config(["experiment=demo", "pipeline.align.beta=0"]).pipeline.recipe == "rl"


@pytest.mark.parametrize("name", ["mgrd_tiny", "mgrd_micro"])
def test_the_shipped_experiments_are_accepted(name):
    assert compose_config([f"experiment={name}"]).pipeline.recipe == "mgrd"

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
        ("pipeline.reinforce.probe_every=0", "pipeline.reinforce.probe_every = 0: must be at least 1"),
        (
            "pipeline.cold_start.reinforce.html_every=0",
            "pipeline.cold_start.reinforce.html_every = 0: must be at least 1",
        ),
        ("pipeline.reinforce.probe_sequences=0", "pipeline.reinforce.probe_sequences = 0: must be at least 1"),
        ("pipeline.cold_start.warmup=-1", "pipeline.cold_start.warmup = -1: must be at least 0"),
        ("pipeline.refine.warmup=-1", "pipeline.refine.warmup = -1: must be at least 0"),
        ("pipeline.align.warmup=-1", "pipeline.align.warmup = -1: must be at least 0"),
        ("actor.sft_optim.warmup_updates=-1", "actor.sft_optim.warmup_updates = -1: must be at least 0"),
        ("pipeline.cold_start.silent_prompts=-1", "pipeline.cold_start.silent_prompts = -1: must be at least 0"),
        ("pipeline.cold_start.careless_prompts=-1", "pipeline.cold_start.careless_prompts = -1: must be at least 0"),
        ("pipeline.distil.hearing_prompts=-1", "pipeline.distil.hearing_prompts = -1: must be at least 0"),
        ("pipeline.align.max_pairs_a_question=0", "pipeline.align.max_pairs_a_question = 0: must be at least 1"),
        ("pipeline.perceive.min_original=1.5", "pipeline.perceive.min_original = 1.5: must be between 0 and 1"),
        (
            "pipeline.cold_start.audio_questions=0",
            "must be at least 1 while pipeline.cold_start.mix.audio_direct is above 0",
        ),
        ("pipeline.cold_start.chain_questions=0", "while pipeline.cold_start.mix.audio_reasoning is above 0"),
        ("actor.ppo.minibatches=0", "actor.ppo.minibatches = 0: must be at least 1"),
        ("actor.ppo.minibatches=257", "at most the samples of a policy update (pipeline.reinforce: 256)"),
    ],
)
def test_a_bad_value_is_refused_with_its_rule(override, words):
    with pytest.raises(ConfigError) as refusal:
        compose_config(["experiment=mgrd_tiny", override])
    assert words in str(refusal.value)


def test_minibatches_must_fit_the_cold_start_too_where_there_is_one():
    small = ["experiment=mgrd_tiny", "actor.ppo.minibatches=200", "pipeline.cold_start.reinforce.questions=16"]
    with pytest.raises(ConfigError, match=r"pipeline\.cold_start\.reinforce: 128"):
        compose_config(small)
    assert compose_config([*small, "pipeline.cold_start.enabled=false"]).actor.ppo.minibatches == 200
    assert compose_config([*small, "pipeline.cold_start.reinforce.updates=0"]).actor.ppo.minibatches == 200


def test_a_source_without_a_share_needs_no_questions():
    no_share = ["pipeline.cold_start.audio_questions=0", "pipeline.cold_start.mix.audio_direct=0"]
    assert compose_config(["experiment=mgrd_tiny", *no_share]).pipeline.cold_start.audio_questions == 0


@pytest.mark.parametrize(
    ("overrides", "modality"),
    [
        (["experiment=mgrd_tiny", "~reward.terms.answer"], "audio"),
        (["experiment=mgrd_tiny", "~reward.terms.answer", "reward.terms.math.text=1"], "audio"),
        (["experiment=mgrd_tiny", "reward.terms.answer.text=null"], "text"),
        (["experiment=demo", "reward.terms.answer.audio=null"], "audio"),
        (
            ["experiment=demo", "data.train=text.jsonl", "reward.terms.answer.text=null", "reward.terms.format.text=1"],
            "text",
        ),
    ],
)
def test_a_modality_that_no_term_knows_right_answers_of_is_refused(overrides, modality):
    with pytest.raises(ConfigError) as refusal:
        compose_config(overrides)
    assert f"none of answer and math has a weight for {modality} questions" in str(refusal.value)
    assert f"add reward.terms.answer.{modality}=0" in str(refusal.value)


@pytest.mark.parametrize(
    "overrides",
    [
        [
            "experiment=mgrd_tiny",
            "reward.terms.answer.audio=0",
            "reward.terms.answer.text=0",
            "reward.terms.format.weight=1",
        ],
        ["experiment=mgrd_tiny", "reward.terms.answer.text=null", "reward.terms.math.text=1"],
        ["experiment=demo", "reward.terms.answer.text=null"],
        ["experiment=demo", "data.train=text.jsonl", "~reward.terms.think_present", "reward.terms.answer.audio=null"],
        [
            "experiment=mgrd_tiny",
            "~reward.terms.answer",
            "reward.terms.answer.datasets.mmau=1",
            "reward.terms.format.weight=1",
        ],
    ],
)
def test_right_answers_may_be_told_without_being_paid_and_by_data_set(overrides):
    assert compose_config(overrides).reward.terms


def test_keys_of_the_whole_recipe_do_not_hinder_the_short_one():
    assert compose_config(["experiment=demo", "pipeline.align.beta=0"]).pipeline.recipe == "rl"


@pytest.mark.parametrize("name", ["mgrd_tiny", "mgrd_micro"])
def test_the_shipped_experiments_are_accepted(name):
    assert compose_config([f"experiment={name}"]).pipeline.recipe == "mgrd"

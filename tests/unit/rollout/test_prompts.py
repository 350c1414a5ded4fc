"""Questions become ids once: text, placeholders, lengths, refusals."""

import dataclasses

import pytest

from rollout import AnswerKind, AudioRef, FeatureRef, PromptBuilder, PromptError, Question
from rollout.messages import Turn
from rollout.model.reference import SAMPLE_TEXT, random_config
from rollout.model.tokenizer import train_tokenizer
from rollout.prompts import response_text

TOKENIZER = train_tokenizer(SAMPLE_TEXT, 320)
BUILDER = PromptBuilder(TOKENIZER, random_config(320))
RECORDING = AudioRef("clip.wav", "00", 2.5)


def question(audio=1, prompt="Which comes first?", choices=("a dog", "a violin")):
    return Question("q1", prompt, "a dog", AnswerKind.CHOICE, choices, audio=(RECORDING,) * audio)


def test_prompt_text_has_turns_placeholders_and_lettered_choices():
    text = BUILDER.text(question(), 2)
    assert text == (
        "<|BOT|>human\n<audio_patch><audio_patch>Which comes first?\nA. a dog\nB. a violin<|EOT|><|BOT|>assistant\n"
    )
    content = [{"type": "audio"}] * 2 + [{"type": "text", "text": "Which comes first?\nA. a dog\nB. a violin"}]
    chat = [{"role": "user", "content": content}]
    assert TOKENIZER.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == text


def test_each_placeholder_expands_to_its_own_patches_between_start_and_end():
    prompt = BUILDER.build(question(2), [FeatureRef("k1", 62), FeatureRef("k2", 25)])
    assert prompt.feature_keys == ("k1", "k2")
    start, patch, end = (TOKENIZER.convert_tokens_to_ids(f"<audio_{name}>") for name in ("start", "patch", "end"))
    head = [TOKENIZER.convert_tokens_to_ids("<|BOT|>"), *BUILDER.encode("human\n")]
    expected = [*head, start, *[patch] * 31, end, start, *[patch] * 13, end]
    assert list(prompt.expanded_ids[: len(expected)]) == expected
    assert prompt.compact_ids.count(patch) == 2
    assert prompt.expanded_ids[len(expected) :] == prompt.compact_ids[len(head) + 2 :]


def test_text_only_question_has_equal_compact_and_expanded_ids():
    prompt = BUILDER.build(question(0))
    assert prompt.compact_ids == prompt.expanded_ids and prompt.feature_keys == ()


def test_audio_without_features_and_features_without_audio_are_refused():
    with pytest.raises(PromptError, match="q1"):
        BUILDER.build(question(1))
    with pytest.raises(PromptError, match="q1"):
        BUILDER.build(question(0), [FeatureRef("k", 62)])


def test_text_that_holds_a_special_token_is_refused():
    with pytest.raises(PromptError, match="<audio_patch>"):
        BUILDER.build(question(0, prompt="Say <audio_patch>"))
    with pytest.raises(PromptError, match="EOT"):
        BUILDER.build(question(0, choices=("a", "b<|EOT|>")))
    with pytest.raises(PromptError, match="EOT"):
        BUILDER.response("I hear a dog.<|EOT|>", "a dog")


def test_more_choices_than_letters_are_refused():
    with pytest.raises(PromptError, match="27 choices"):
        BUILDER.build(question(0, choices=tuple(str(i) for i in range(27))))


def test_response_is_think_block_reply_and_end_token():
    ids = BUILDER.response("I hear a dog.\nSo a dog.", "a dog")
    assert ids[-1] == BUILDER.special.eot
    assert BUILDER.decode(ids) == "<think>\nI hear a dog.\nSo a dog.\n</think>\na dog"
    assert BUILDER.decode(BUILDER.response("", "a dog")) == response_text("", "a dog") == "<think>\n\n</think>\na dog"


def test_earlier_turns_come_first_as_the_chat_template_writes_them():
    history = (Turn("human", "Hello"), Turn("assistant", "<think>\n\n</think>\nHi"))
    text = BUILDER.text(dataclasses.replace(question(0, choices=()), history=history), 0)
    chat = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "<think>\n\n</think>\nHi"},
        {"role": "user", "content": "Which comes first?"},
    ]
    assert text == TOKENIZER.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)


def test_an_unknown_role_and_special_tokens_in_earlier_turns_are_refused():
    with pytest.raises(PromptError, match="human or assistant, not 'system'"):
        BUILDER.text(dataclasses.replace(question(0), history=(Turn("system", "Be brief."),)), 0)
    with pytest.raises(PromptError, match="EOT"):
        BUILDER.text(dataclasses.replace(question(0), history=(Turn("human", "Hi<|EOT|>"),)), 0)

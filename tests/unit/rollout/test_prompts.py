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


def test_clips_of_two_turns_stand_in_their_own_turns_and_features_keep_that_order():
    first, second, third = (AudioRef(f"{name}.wav", name, 2.5) for name in "abc")
    history = (Turn("human", "What is this?", (first, second)), Turn("assistant", "A dog."))
    asked = dataclasses.replace(question(0, prompt="And this?", choices=()), history=history, audio=(third,))
    assert asked.clips == (first, second, third)
    assert BUILDER.text(asked, [1, 2, 1]) == (
        "<|BOT|>human\n<audio_patch><audio_patch><audio_patch>What is this?<|EOT|><|BOT|>assistant\nA dog.<|EOT|>"
        "<|BOT|>human\n<audio_patch>And this?<|EOT|><|BOT|>assistant\n"
    )
    three = [{"type": "audio"}] * 3
    chat = [
        {"role": "user", "content": [*three, {"type": "text", "text": "What is this?"}]},
        {"role": "assistant", "content": "A dog."},
        {"role": "user", "content": [*three[:1], {"type": "text", "text": "And this?"}]},
    ]
    assert BUILDER.text(asked, [1, 2, 1]) == TOKENIZER.apply_chat_template(
        chat, tokenize=False, add_generation_prompt=True
    )
    features = [FeatureRef("a", 62), FeatureRef("b0", 50), FeatureRef("b1", 10), FeatureRef("c", 25)]
    prompt = BUILDER.build(asked, features, [1, 2, 1])
    assert prompt.feature_keys == ("a", "b0", "b1", "c")
    start, patch = (TOKENIZER.convert_tokens_to_ids(f"<audio_{name}>") for name in ("start", "patch"))
    lengths = []
    for before, token in zip((None, *prompt.expanded_ids), prompt.expanded_ids, strict=False):
        if token == patch and before == start:
            lengths.append(0)
        if token == patch:
            lengths[-1] += 1
    assert lengths == [31, 25, 5, 13]
    question_ids = BUILDER.encode("And this?")
    places = [i for i, token in enumerate(prompt.expanded_ids) if token == start]
    turn_end = prompt.expanded_ids.index(BUILDER.special.eot)
    assert [place < turn_end for place in places] == [True, True, True, False]
    last = places[-1] + lengths[-1] + 2
    assert list(prompt.expanded_ids[last : last + len(question_ids)]) == question_ids


def test_a_clip_in_an_earlier_turn_alone_makes_an_audio_question():
    asked = dataclasses.replace(question(0), history=(Turn("human", "Listen.", (RECORDING,)),))
    assert asked.is_audio and asked.clips == (RECORDING,)
    text = BUILDER.text(asked, [1])
    assert text.startswith("<|BOT|>human\n<audio_patch>Listen.<|EOT|>") and text.count("<audio_patch>") == 1


def test_chunks_that_fit_neither_clips_nor_features_are_refused():
    asked = dataclasses.replace(question(1), history=(Turn("human", "Listen.", (RECORDING,)),))
    features = [FeatureRef("k1", 62), FeatureRef("k2", 62)]
    with pytest.raises(PromptError, match="how many chunks"):
        BUILDER.build(asked, features)
    with pytest.raises(PromptError, match="counted for 1"):
        BUILDER.build(asked, features, [2])
    with pytest.raises(PromptError, match="2 feature chunks"):
        BUILDER.build(asked, features, [1, 2])


def test_turns_without_audio_keep_their_json_and_turns_with_audio_come_back():
    plain = dataclasses.replace(question(0), history=(Turn("human", "Hello"),))
    assert '"history": [{"role": "human", "text": "Hello"}]' in plain.to_json()
    heard = dataclasses.replace(question(1), history=(Turn("human", "Listen.", (RECORDING,)),))
    for asked in (plain, heard):
        assert Question.from_json(asked.to_json()) == asked
    with pytest.raises(ValueError, match="2 recordings, not 1"):
        heard.with_clips([RECORDING])

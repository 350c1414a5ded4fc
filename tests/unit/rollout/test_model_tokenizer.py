"""Tokenizer: order of the special tokens, lossless text, think marks, chat template."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.model.reference import SAMPLE_TEXT
from rollout.model.tokenizer import SPECIAL_TOKENS, load_tokenizer, special_ids, train_tokenizer

TOKENIZER = train_tokenizer(SAMPLE_TEXT, 400)


def test_special_tokens_come_first_in_the_agreed_order():
    assert [TOKENIZER.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS] == list(range(6))
    assert TOKENIZER.pad_token_id == 0 and TOKENIZER.eos_token_id == 2
    ids = special_ids(TOKENIZER)
    assert ids.audio_patch == 4
    assert ids.eot not in ids.banned and len(ids.banned) == 5


def test_vocabulary_has_at_most_the_size_asked_for():
    assert len(TOKENIZER) <= 400
    assert len(train_tokenizer(SAMPLE_TEXT, 280)) == 280
    with pytest.raises(ValueError, match="264"):
        train_tokenizer(SAMPLE_TEXT, 263)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text_comes_back_unchanged(text):
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    if not any(token in text for token in SPECIAL_TOKENS):
        assert TOKENIZER.decode(ids, skip_special_tokens=True) == text


def test_think_marks_are_single_tokens_that_survive_decoding():
    text = "<think>\nI hear a dog.\n</think>\na dog"
    ids = TOKENIZER.encode(text + "<|EOT|>", add_special_tokens=False)
    assert ids[0] == TOKENIZER.convert_tokens_to_ids("<think>") and ids[-1] == TOKENIZER.eos_token_id
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == text


def test_grid_numbers_that_the_text_repeats_are_single_tokens():
    tokenizer = train_tokenizer(["Events at 0.2 s, 1.4 s. Note 1 is about 440 Hz. Level 1 is about -9 dB."] * 20, 400)
    for number in (" 0.2", " 1.4", " 440", " -9"):
        assert len(tokenizer.encode(number, add_special_tokens=False)) == 1
    assert len(tokenizer.encode("\n\n", add_special_tokens=False)) == 2


def test_tokenizer_survives_a_folder(tmp_path):
    TOKENIZER.save_pretrained(str(tmp_path))
    loaded = load_tokenizer(tmp_path)
    text = SAMPLE_TEXT[0] + "<|EOT|><think>"
    assert loaded.encode(text) == TOKENIZER.encode(text, add_special_tokens=False)
    assert loaded.chat_template == TOKENIZER.chat_template


def test_chat_template_writes_turns_and_placeholders():
    messages = [
        {"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "Which word?"}]},
        {"role": "assistant", "content": "<think>\n\n</think>\nseven"},
        {"role": "human", "content": "Again?"},
    ]
    text = TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|BOT|>human\n<audio_patch>Which word?<|EOT|><|BOT|>assistant\n<think>\n\n</think>\nseven<|EOT|>"
        "<|BOT|>human\nAgain?<|EOT|><|BOT|>assistant\n"
    )


def test_foreign_tokenizer_is_refused_with_what_it_lacks():
    class Foreign:
        name_or_path = "other"

        def get_vocab(self):
            return {"<|BOT|>": 1}

    with pytest.raises(ValueError, match="<audio_patch>"):
        special_ids(Foreign())

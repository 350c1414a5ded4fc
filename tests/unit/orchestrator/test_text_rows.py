"""Text-only questions become prompts without the audio path; clips of every turn are encoded, each once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.datasets.identity import prompt_digest
from orchestrator.parts import Parts
from rollout import AudioRef, FeatureRef, PromptBuilder
from rollout.messages import AnswerKind, Question, Turn
from rollout.model.reference import SAMPLE_TEXT, random_config
from rollout.model.tokenizer import train_tokenizer


def parts_with(features: Any) -> Parts:
    """What `Parts.prompts` needs, without engines, trainer and rewards."""
    parts = object.__new__(Parts)
    parts.builder = PromptBuilder(train_tokenizer(SAMPLE_TEXT, 320), random_config(320))
    parts.features = features
    parts._prompts = {}
    return parts


def text(name: str) -> Question:
    return Question(name, "3 + 4?", "7", AnswerKind.NUMBER, history=(Turn("human", "Hi!"), Turn("assistant", "Hi!")))


def test_text_rows_never_ask_for_features() -> None:
    parts = parts_with(SimpleNamespace())  # has no way to encode anything
    first, second = parts.prompts([text("a"), text("b")])
    assert first.feature_keys == second.feature_keys == ()
    assert first.compact_ids == first.expanded_ids


def test_questions_of_one_id_keep_their_own_words_and_one_question_of_two_ids_is_encoded_once() -> None:
    builds: list[str] = []
    parts = parts_with(SimpleNamespace())
    build = parts.builder.build
    parts.builder.build = lambda question, *rest: builds.append(question.id) or build(question, *rest)
    plus, minus = text("a"), dataclasses.replace(text("a"), prompt="3 - 1?")
    (first,) = parts.prompts([plus])
    (second,) = parts.prompts([minus])
    assert first.compact_ids != second.compact_ids
    (renamed,) = parts.prompts([text("b")])
    assert renamed == dataclasses.replace(first, question_id="b")
    assert builds == ["a", "a"]


CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "prompt": st.sampled_from(["3 + 4?", "3 - 1?"]),
        "choices": st.sampled_from([(), ("7", "8"), ("8", "7"), ("7 8",)]),
        "audio": st.sampled_from([(), (AudioRef("x", "dog", 1.0),), (AudioRef("y", "bell", 1.0),)]),
        "history": st.sampled_from(
            [
                (),
                (Turn("human", "Hi!"),),
                (Turn("assistant", "Hi!"),),
                (Turn("human", "Hi!", (AudioRef("x", "dog", 1.0),)),),
            ]
        ),
    },
)


@given(CHANGES, CHANGES)
def test_a_digest_tells_prompts_apart_and_nothing_else(one: dict[str, Any], other: dict[str, Any]) -> None:
    first, second = (dataclasses.replace(text("a"), **fields) for fields in (one, other))
    assert (prompt_digest(first) == prompt_digest(second)) == (first == second)
    moved = [AudioRef("elsewhere", clip.sha256, 2.0) for clip in first.clips]
    renamed = dataclasses.replace(first.with_clips(moved), id="b", answer="8", truth={"events": []}, split="train")
    assert prompt_digest(renamed) == prompt_digest(first)


def test_clips_of_all_turns_are_encoded_once_and_keep_their_order() -> None:
    asked: list[list[str]] = []

    def warm(audio: Sequence[AudioRef]) -> dict[str, list[FeatureRef]]:
        asked.append([clip.sha256 for clip in audio])
        return {clip.sha256: [FeatureRef(f"{clip.sha256}{i}", 50) for i in range(2)] for clip in audio}

    bell, dog = AudioRef("bell.wav", "bell", 30.0), AudioRef("dog.wav", "dog", 30.0)
    history = (Turn("human", "Listen.", (bell,)), Turn("assistant", "A bell."))
    heard = Question("c", "And now?", "dog", AnswerKind.EXACT, audio=(dog, bell), history=history)
    parts = parts_with(SimpleNamespace(warm=warm))
    plain, mixed = parts.prompts([text("a"), heard])
    assert asked == [["bell", "dog"]]
    assert plain.feature_keys == ()
    assert mixed.feature_keys == ("bell0", "bell1", "dog0", "dog1", "bell0", "bell1")
    patch = parts.builder.special.audio_patch
    first_turn = mixed.compact_ids[: mixed.compact_ids.index(parts.builder.special.eot)]
    assert (first_turn.count(patch), mixed.compact_ids.count(patch)) == (2, 6)

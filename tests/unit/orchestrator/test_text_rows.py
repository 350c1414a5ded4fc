"""Text-only questions become prompts without the audio path; clips of every turn are encoded, each once."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

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

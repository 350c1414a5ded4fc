"""Repetition, language, consistency and self-cognition on any text; the word lists are the pinned ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards import RewardError, RewardTerm, Sample
from rewards.functions import lexicon
from rewards.functions.cognition import denials, self_cognition
from rewards.functions.consistency import conclusion, consistency
from rewards.functions.language import in_language, language, passages, script_of
from rewards.functions.lexicon import DIGESTS, digest_of, perceptual_terms
from rewards.functions.prose import is_conclusion, sentences, unquoted
from rewards.functions.repetition import repeated_share, repetition
from rewards.golden import QUESTION_DEFAULTS
from rewards.registry import resolve


def sample(reasoning: str, reply: str = "dog", **question: Any) -> Sample:
    return Sample("t", QUESTION_DEFAULTS | question, "", reasoning, reply, True, True, 20, 10)


@given(st.text(max_size=100), st.text(max_size=30))
def test_any_text_scores_within_bounds(reasoning: str, reply: str) -> None:
    for function in (repetition, self_cognition):
        assert 0.0 <= function(sample(reasoning, reply))["score"] <= 1.0
    found = language(sample(reasoning, reply))
    assert isinstance(found, dict) and 0.0 <= found["score"] <= 1.0
    for kind in ("exact", "choice"):
        concluded = consistency(sample(reasoning, reply, answer_kind=kind, choices=["dog", "violin"]))
        assert concluded is not None and concluded["score"] in (0.0, 1.0)


WORDS = ["pitch", "rises", "loud", "tone", "bark", "violin", "second", "bright", "short", "decay"]


@given(st.lists(st.sampled_from(WORDS), min_size=2, max_size=12, unique=True), st.integers(3, 8))
def test_a_loop_is_repetition_and_its_first_round_is_not(words: list[str], times: int) -> None:
    once = " ".join(words) + ". "
    assert repeated_share(once) == 0.0
    assert repeated_share(once * times) >= (times - 1) / times - 0.05
    assert repetition(sample(once * times))["score"] <= 0.05


@given(st.lists(st.integers(0, 40).map(lambda n: f"{n / 10} s"), min_size=1, max_size=20))
def test_lists_of_numbers_are_no_loops(times: list[str]) -> None:
    assert repetition(sample(f"Events at {', '.join(times)}. So {len(times)}."))["score"] == 1.0


def test_scripts_and_short_passages() -> None:
    assert [script_of(character) for character in "aд我7 "] == ["LATIN", "CYRILLIC", "CJK", "", ""]
    assert in_language("0.2, 0.7", "en", 12) is None and in_language("So", "en", 12) is None
    assert in_language("我", "en", 12) is False
    assert passages("So. It is a dog. 我听到狗。", 12) == ["So. It is a dog.", "我听到狗。"]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("language", {"language": "klingon"}), ("language", {"short": 2.0}), ("language", {"part": "all"}),
        ("repetition", {"ngram": 0}), ("repetition", {"threshold": 0.7}), ("repetition", {"part": "all"}),
        ("self_cognition", {"part": "all"}), ("consistency", {"missing": -1.0}),
    ],
)  # fmt: skip
def test_parameters_that_make_no_sense_are_refused(name: str, parameters: dict[str, Any]) -> None:
    with pytest.raises(RewardError, match=name):
        resolve(RewardTerm(name, 1.0, "any", parameters))


def test_the_last_conclusion_counts_and_hearing_is_none() -> None:
    assert conclusion("So dog. But the bow is clear. So, the answer is violin.", ["dog", "violin"]) == "violin."
    assert conclusion("The tone is bright.", []) == ""
    assert not is_conclusion("Sound 1 lasts 0.4 s.") and is_conclusion("So dog.")


def test_sentences_keep_numbers_whole_and_quotes_are_not_the_models() -> None:
    assert sentences("At 0.2 s. Then 0.7 s!\n- a bark\n\n...") == ["At 0.2 s.", "Then 0.7 s!", "a bark"]
    assert unquoted('She says "440 Hz" and it\'s loud.') == "She says  …  and it's loud."


@given(st.text(max_size=150))
def test_quoted_denials_are_never_the_models(text: str) -> None:
    quoted = text.replace('"', "").replace("\n", " ")
    assert denials(f'The man says "{quoted} I cannot hear the audio."') == []


def test_denials_name_kind_and_sentence() -> None:
    said = "The bark is short. As a text-based model, I cannot hear it. So dog."
    assert denials(said) == [("text_model", "As a text-based model, I cannot hear it.")]


@pytest.mark.parametrize("name", DIGESTS)
def test_word_lists_are_the_ones_that_versions_stand_for(name: str) -> None:
    assert digest_of(name) == DIGESTS[name]


def test_a_changed_word_list_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lexicon, "DATA", tmp_path)
    (tmp_path / "perceptual_terms.json").write_text('{"terms": {}, "event_nouns": []}')
    lexicon.load.cache_clear()
    with pytest.raises(ValueError, match="restore the file"):
        lexicon.load("perceptual_terms.json")
    lexicon.load.cache_clear()


def test_perceptual_terms_are_whole_words() -> None:
    assert perceptual_terms("A bright, high-pitched timbre with reverberation; brightness fades.") == [
        "bright", "high-pitched", "timbre", "reverberation", "brightness", "fades",
    ]  # fmt: skip
    assert perceptual_terms("The notebook is on the table in a park.") == []

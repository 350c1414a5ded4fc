"""Replies judged by the rules of MMAU and MMAR get what the benchmarks' own evaluators give them.

The expected values were made outside this repository: `string_match` of `evaluation.py` (Sakshi113/MMAU at 110127f5) and of
`code/evaluation.py` (ddlBoJack/MMAR at 3bce090a) was run on every line of the table; the two agree on all of them.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards import Sample
from rewards.functions.answer import answer
from rewards.functions.benchmark_rules import is_benchmark_match

VOICE = ("Man", "Woman", "Child", "Robot")
WHO = ("A child", "A woman", "An adult man", "A teenager")
NATURE = ("Mountain Canyon", "Dense Forest", "Open Grassland", "City Streets")
BPM = ("90 bpm", "120 bpm", "60 bpm", "150 bpm")
COUNT = ("1", "2", "3", "12")
TEMPO = ("fast tempo", "slow tempo", "no tempo")
YES = ("Yes", "No")
BELL = ("bell", "church bell", "bicycle bell")
KEY = ("C major", "C minor", "A minor", "F# major")
LETTERED = ("(A) guitar", "(B) piano", "(C) drums", "(D) flute")
SAME_WORDS = ("dog barking", "barking dog", "cat")
STYLES = ("rock 'n' roll", "hip-hop", "R&B", "!?")
ACCENTS = ("Café", "Straße", "第一", "第二")
SENTENCES = ("The man is happy because he won", "The man is sad because he lost")

# reference, options, prediction, what the evaluators say
CASES = [
    ("Man", VOICE, "Man", True),
    ("Man", VOICE, "man", True),
    ("Man", VOICE, "MAN.", True),
    ("Man", VOICE, "The man", True),
    ("Man", VOICE, "A man is speaking", True),
    ("Man", VOICE, "Woman", False),
    ("Man", VOICE, "woman", False),
    ("Man", VOICE, "A man and a woman", False),
    ("Man", VOICE, "not a man", True),
    ("Man", VOICE, "It is a man, not a robot", False),
    ("Man", VOICE, "A", False),
    ("Man", VOICE, "", False),
    ("Man", VOICE, "?!", False),
    ("Man", VOICE, "human", False),
    ("Man", VOICE, "mankind", False),
    ("Man", VOICE, "man man man", True),
    ("Man", VOICE, "man-like robot", False),
    ("Man", VOICE, "Man\nWoman", False),
    ("Man", VOICE, "The answer is (A) Man.", True),
    ("Man", VOICE, "man_", False),
    ("Man", VOICE, "mans", False),
    ("Man", VOICE, "man's", True),
    ("A woman", WHO, "A woman", True),
    ("A woman", WHO, "woman", False),
    ("A woman", WHO, "a woman", True),
    ("A woman", WHO, "The woman", False),
    ("A woman", WHO, "An adult woman", False),
    ("A woman", WHO, "A woman, a child", False),
    ("A woman", WHO, "woman A", True),
    ("A woman", WHO, "B. A woman", True),
    ("A woman", WHO, "A teenager woman", False),
    ("A woman", WHO, "A woman is an adult", False),
    ("An adult man", WHO, "an adult man", True),
    ("An adult man", WHO, "adult man", False),
    ("An adult man", WHO, "a man who is an adult", False),
    ("An adult man", WHO, "An adult man", True),
    ("An adult man", WHO, "man", False),
    ("Open Grassland", NATURE, "Open Grassland", True),
    ("Open Grassland", NATURE, "open grassland", True),
    ("Open Grassland", NATURE, "grassland, open", True),
    ("Open Grassland", NATURE, "Grassland", False),
    ("Open Grassland", NATURE, "C", False),
    ("Open Grassland", NATURE, "C. Open Grassland", True),
    ("Open Grassland", NATURE, "open-grassland", True),
    ("Open Grassland", NATURE, "opengrassland", False),
    ("Open Grassland", NATURE, "Open Grassland in the mountain", False),
    ("Open Grassland", NATURE, "the dense and open grassland", False),
    ("120 bpm", BPM, "120 bpm", True),
    ("120 bpm", BPM, "120", False),
    ("120 bpm", BPM, "bpm 120", True),
    ("120 bpm", BPM, "120bpm", False),
    ("120 bpm", BPM, "about 120 bpm", True),
    ("120 bpm", BPM, "between 90 and 120 bpm", False),
    ("120 bpm", BPM, "120.5 bpm", True),
    ("2", COUNT, "2", True),
    ("2", COUNT, "two", False),
    ("2", COUNT, "12", False),
    ("2", COUNT, "2 times", True),
    ("2", COUNT, "2.", True),
    ("2", COUNT, "1 or 2", False),
    ("2", COUNT, "There are 2 dogs", True),
    ("2", COUNT, "2 of 12", False),
    ("slow tempo", TEMPO, "slow tempo", True),
    ("slow tempo", TEMPO, "slow", False),
    ("slow tempo", TEMPO, "a slow tempo", True),
    ("slow tempo", TEMPO, "no, slow tempo", False),
    ("slow tempo", TEMPO, "tempo: slow", True),
    ("bell", BELL, "bell", True),
    ("bell", BELL, "church bell", False),
    ("bell", BELL, "a bell", True),
    ("bell", BELL, "bicycle", False),
    ("church bell", BELL, "bell", False),
    ("church bell", BELL, "church bell", True),
    ("church bell", BELL, "bell of a church", True),
    ("church bell", BELL, "a bicycle and a church bell", False),
    ("C minor", KEY, "C minor", True),
    ("C minor", KEY, "c minor", True),
    ("C minor", KEY, "minor C", True),
    ("C minor", KEY, "A minor", False),
    ("C minor", KEY, "C major", False),
    ("C minor", KEY, "C# minor", True),
    ("F# major", KEY, "F# major", True),
    ("F# major", KEY, "F major", True),
    ("F# major", KEY, "F sharp major", True),
    ("(B) piano", LETTERED, "piano", False),
    ("(B) piano", LETTERED, "(B) piano", True),
    ("(B) piano", LETTERED, "B piano", True),
    ("(B) piano", LETTERED, "b", False),
    ("(B) piano", LETTERED, "(B)", False),
    ("(B) piano", LETTERED, "(A) piano", False),
    ("(B) piano", LETTERED, "a piano b", False),
    ("dog barking", SAME_WORDS, "barking dog", True),
    ("dog barking", SAME_WORDS, "dog barking", True),
    ("dog barking", SAME_WORDS, "a dog is barking", True),
    ("dog barking", SAME_WORDS, "cat dog barking", False),
    ("rock 'n' roll", STYLES, "rock n roll", True),
    ("rock 'n' roll", STYLES, "rock 'n' roll", True),
    ("rock 'n' roll", STYLES, "rock and roll", False),
    ("rock 'n' roll", STYLES, "Rock-n-Roll", True),
    ("R&B", STYLES, "R&B", True),
    ("R&B", STYLES, "r b", True),
    ("R&B", STYLES, "RB", False),
    ("!?", STYLES, "anything", True),
    ("!?", STYLES, "hop", False),
    ("!?", STYLES, "!?", False),
    ("Café", ACCENTS, "café", True),
    ("Café", ACCENTS, "cafe", False),
    ("Café", ACCENTS, "CAFÉ", True),
    ("第一", ACCENTS, "第一", True),
    ("第一", ACCENTS, "第二", False),
    ("第一", ACCENTS, "是第一", False),
    ("Yes", YES, "Yes", True),
    ("Yes", YES, "yes.", True),
    ("Yes", YES, "No", False),
    ("Yes", YES, "Yes and no", False),
    ("Yes", YES, "yes, no doubt", False),
    ("The man is happy because he won", SENTENCES, "The man is happy because he won", True),
    ("The man is happy because he won", SENTENCES, "happy because he won the man is", True),
    ("The man is happy because he won", SENTENCES, "The man is happy", False),
    ("The man is happy because he won", SENTENCES, "the man is happy because he won and not sad", False),
    ("Trumpet", ("Violin", "Flute"), "trumpet", True),
    ("Trumpet", ("Violin", "Flute"), "Trumpet and violin", False),
    ("Man", (), "man", True),
    ("Man", (), "woman man", True),
]  # fmt: skip


@pytest.mark.parametrize("rules", ["mmau", "mmar"])
@pytest.mark.parametrize(("reference", "choices", "reply", "right"), CASES)
def test_the_verdict_is_the_evaluators(
    rules: str, reference: str, choices: tuple[str, ...], reply: str, right: bool
) -> None:
    question = {"answer_kind": "choice", "answer": reference, "choices": list(choices)}
    assert answer(Sample("t", question, reply, "", reply, True, True, 3, 0), rules=rules) == float(right)


WORDS = st.lists(st.sampled_from(["a", "dog", "owl", "red", "not", "2"]), max_size=4).map(" ".join)


@given(st.lists(WORDS, max_size=4), WORDS, WORDS)
def test_a_match_has_every_word_of_the_reference_and_none_of_another_option_alone(
    choices: list[str], reference: str, reply: str
) -> None:
    said, wanted = set(reply.split()), set(reference.split())
    others = {word for choice in choices for word in choice.split()} - wanted
    assert is_benchmark_match(reply, choices, reference) == (bool(said) and wanted <= said and not others & said)

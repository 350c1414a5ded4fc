"""Units, transcripts, sets, lists and the ways of naming a choice: what is right, what is wrong, what can't be judged."""

from __future__ import annotations

import itertools
import string
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards import Sample, reference_faults
from rewards.functions.answer import answer
from rewards.functions.choice import Named, _named, _whole, named_options, options_of
from rewards.functions.elements import elements, list_score, set_score
from rewards.functions.transcript import spoken_words, transcript_score, word_error_rate
from rewards.functions.units import NAMES, is_number, quantities

FOUR = ["dog", "violin", "church bell", "water"]


def choice(reply: str, reference: str, choices: list[str], by: str) -> float:
    question = {"answer_kind": "choice", "answer": reference, "choices": choices}
    return answer(Sample("t", question, reply, "", reply, True, True, 3, 0), by=by)


@pytest.mark.parametrize(
    ("reply", "either", "letter", "text"),
    [
        ("violin", 1, 0, 1),
        ("B", 1, 1, 0),
        ("(B) violin", 1, 1, 1),
        ("The answer is B.", 1, 1, 0),
        ("It is the violin.", 1, 0, 1),
        ("A. violin", 0, 0, 0),
        ("B. dog", 0, 0, 0),
        ("not B", 0, 0, 0),
        ("", 0, 0, 0),
    ],
)
def test_a_choice_must_be_named_in_the_way_asked_for(reply: str, either: float, letter: float, text: float) -> None:
    assert [choice(reply, "violin", FOUR, by) for by in ("either", "letter", "text")] == [either, letter, text]


def test_options_that_are_letters_are_told_apart_by_the_way_asked_for() -> None:
    notes = ["C", "D", "E", "F"]
    assert choice("D", "D", notes, "text") == 1.0  # the second one
    assert choice("D", "F", notes, "letter") == 1.0  # the fourth one
    assert choice("D", "D", notes, "letter") == 0.0


PIECES = st.sampled_from(
    [*FOUR, "5", ".5", "-5", "It is rain", "rain", "A", "B", "c", "d", "(B)", "[c]", "B.", "The answer is", "answer:", "It's", "not",
     "or", "and", ",", ".", "!", "**", "five", "C major", "A dog", "I", "option", "-3 dB", "1000", "\n", '"', "So", "'", "’", "`", ":"]
)  # fmt: skip
OPTIONS = st.sampled_from(
    [FOUR, ["5", "6", ".5", "-5"], ["C", "D", "E#"], ["It is rain", "rain"], ["C major", "A major", "minor"], ["I", "A dog", "B and C"]]
)  # fmt: skip


@given(st.lists(PIECES, max_size=5), st.sampled_from(["", " "]), OPTIONS)
def test_the_short_ways_find_what_the_long_way_finds(pieces: list[str], glue: str, choices: list[str]) -> None:
    reply, options = glue.join(pieces), options_of(tuple(choices))
    short, long = _whole(reply, options), _named(reply, options)
    assert short is None or short == long
    assert named_options(reply, choices) == set(long.texts | long.letters)


@given(st.text(max_size=40), OPTIONS)
def test_what_is_right_by_letter_or_text_is_right_by_either(reply: str, choices: list[str]) -> None:
    if any(len(option) == 1 for option in choices):
        return
    for by in ("letter", "text"):
        assert choice(reply, choices[0], choices, by) <= choice(reply, choices[0], choices, "either")


def test_a_letter_names_the_option_at_its_place() -> None:
    for count, letter in itertools.product(range(2, 7), string.ascii_uppercase[:6]):
        named = _whole(letter, options_of(tuple(f"option {i} of many" for i in range(count))))
        place = string.ascii_uppercase.index(letter)
        assert named == Named(frozenset(), frozenset({place} if place < count else ()))


@pytest.mark.parametrize(
    ("reply", "reference", "tolerance", "right"),
    [
        ("1.2 kHz", "1200 Hz", 0, True),
        ("1200", "1.2 kHz", 0, False),  # taken in kilohertz
        ("1.2", "1.2 kHz", 0, True),
        ("1,200 Hz (1.2 kHz)", "1.2 kHz", 0, True),
        ("1.2 kHz or 1.3 kHz", "1.2 kHz", 0.2, False),
        ("350 ms", "0.35 s", 0, True),
        ("0.35 seconds", "350 ms", 0, True),
        ("0.36 s", "350 ms", 10, True),
        ("0.361 s", "350 ms", 10, False),
        ("2 min 30 s", "150 s", 0, True),
        ("1 hour and 5 minutes", "65 min", 0, True),
        ("30 s, 2 min", "150 s", 0, False),
        ("90 BPM", "90 bpm", 0, True),
        ("90 beats per minute", "90 bpm", 0, True),
        ("1.5 Hz", "90 bpm", 0, False),
        ("-6dB", "-6 dB", 0, True),
        ("minus six decibels", "-6 dB", 0, True),
        ("6 dB", "-6 dB", 0, False),
        ("-6 dBFS", "-6 dB", 0, True),
        ("50 %", "50%", 0, True),
        ("50 percent", "50%", 0, True),
        ("an octave and 2 semitones", "2 semitones", 0, True),  # "an" is no number
        ("1 octave", "12 semitones", 0, True),
        ("440 Hz", "440", 0, True),  # a reference without a unit: the number as written
        ("3 dogs", "3", 0, True),
        ("3 s", "3 dogs", 0, True),  # dogs are no unit
        ("440 m", "440 Hz", 0, False),
        ("12 °C", "12 degrees Celsius", 0, True),
        ("µ", "3 s", 0, False),
        ("3000 µs", "3 ms", 0, True),
    ],
)
def test_a_number_counts_in_its_unit(reply: str, reference: str, tolerance: float, right: bool) -> None:
    assert is_number(reply, reference, tolerance) == right


UNIT_PAIRS = [pair for pair in itertools.product(NAMES, repeat=2) if NAMES[pair[0]][0] == NAMES[pair[1]][0]]


@given(st.integers(-5000, 5000), st.sampled_from(UNIT_PAIRS))
def test_a_value_is_the_same_in_every_unit_of_its_dimension(value: int, pair: tuple[str, str]) -> None:
    one, other = pair
    converted = value * NAMES[one][1] / NAMES[other][1]
    assert is_number(f"{converted:.9f} {other}", f"{value} {one}", 1e-4 * max(1.0, NAMES[other][1] / NAMES[one][1]))


@given(st.integers(0, 500), st.sampled_from(sorted(NAMES)), st.sampled_from(sorted(NAMES)))
def test_units_of_two_dimensions_are_never_equal(value: int, one: str, other: str) -> None:
    if NAMES[one][0] != NAMES[other][0]:
        assert not is_number(f"{value} {one}", f"{value} {other}", 1e9)


def test_every_name_of_a_unit_is_read_back() -> None:
    for name, (dimension, size) in NAMES.items():
        assert quantities(f"about 7 {name}, I think") == [(7.0, dimension, size)], name


@pytest.mark.parametrize(
    ("reply", "reference", "rate"),
    [
        ("Turn it off!", "turn it off", 0.0),
        ('The speaker says: "Turn it off."', "turn it off", 0.0),
        ("Transcript: turn it off", "turn it off", 0.0),
        ("turn it on", "turn it off", 1 / 3),
        ("turn off", "turn it off", 1 / 3),
        ("turn it off now please", "turn it off", 2 / 3),
        ("", "turn it off", 1.0),
        ("It’s 7 o'clock", "it's seven o'clock", 0.0),
        ("1,200 doors", "1200 doors", 0.0),
        ("今天天气好", "今天天气很好", 1 / 6),
        ("he says no", "he says no", 0.0),
    ],
)
def test_the_word_error_rate_counts_words_only(reply: str, reference: str, rate: float) -> None:
    assert word_error_rate(reply, reference) == pytest.approx(rate)
    assert transcript_score(reply, reference) == pytest.approx(1 - rate)
    assert transcript_score(reply, reference, max_error_rate=rate) == 1.0
    assert transcript_score(reply, reference, max_error_rate=rate / 2) == float(rate == 0)


@given(st.lists(st.sampled_from(["red", "blue", "dog", "owl"]), min_size=1, max_size=6), st.integers(0, 12))
def test_words_too_many_never_score_below_zero(words: list[str], more: int) -> None:
    reference = " ".join(words)
    assert transcript_score(reference + " cat" * more, reference) == pytest.approx(max(0.0, 1 - more / len(words)))


@given(st.text(max_size=60))
def test_spoken_words_have_no_case_and_no_punctuation(text: str) -> None:
    assert spoken_words(" ".join(spoken_words(text))) == spoken_words(text)


ELEMENTS = st.lists(st.sampled_from(["dog", "church bell", "owl", "violin", "rain"]), min_size=1, max_size=5)
FORMS = (
    ", ".join,
    "; ".join,
    lambda parts: "\n".join(f"- {part}" for part in parts),
    lambda parts: "\n".join(f"{i}. {part}" for i, part in enumerate(parts, 1)),
    " -> ".join,
    lambda parts: "I hear a " + ", then a ".join(parts) + ".",
    lambda parts: " and ".join(f"the {part}" for part in parts),
    lambda parts: "The answer is: [" + ", ".join(parts) + "]",
)


@given(ELEMENTS, ELEMENTS, st.sampled_from(FORMS), st.sampled_from(FORMS[:5]))
def test_sets_and_lists_compare_elements_in_any_form(
    said: list[str], wanted: list[str], form: object, reference_form: object
) -> None:
    reply, reference = form(said), reference_form(wanted)  # type: ignore[operator]
    assert list_score(reply, reference) == float(said == wanted)
    assert set_score(reply, reference) == float(set(said) == set(wanted))
    shared = len(set(said) & set(wanted)) / len(set(said) | set(wanted))
    assert set_score(reply, reference, partial=True) == pytest.approx(shared)
    partial = list_score(reply, reference, partial=True)
    assert (partial == 1.0) == (said == wanted)
    assert 0.0 <= partial <= 1.0


def test_a_list_with_one_of_four_replaced_is_three_quarters_right() -> None:
    assert list_score("dog, owl, rain, cat", "dog, owl, rain, violin", partial=True) == 0.75


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("dog, violin and owl", ("dog", "violin", "owl")),
        ("a dog, a violin, and then an owl.", ("dog", "violin", "owl")),
        ("First a dog, then a violin", ("dog", "violin")),
        ("salt and pepper; sand", ("salt and pepper", "sand")),
        ("sand, brand, band", ("sand", "brand", "band")),
        ("{3, 1, two}", ("3", "1", "2")),
        ("", ()),
        (" , ; ", ()),
    ],
)
def test_elements_are_split_at_commas_words_and_lines(text: str, found: tuple[str, ...]) -> None:
    assert elements(text) == found


@pytest.mark.parametrize(
    ("kind", "reference"), [("transcript", "?!"), ("set", ", ;"), ("list", "."), ("number", "440 Hz or 441 Hz"), ("math", "many")]
)  # fmt: skip
def test_a_reference_of_a_new_kind_that_can_not_be_used_is_an_error_and_a_fault(kind: str, reference: str) -> None:
    question = {"answer_kind": kind, "answer": reference, "choices": [], "tolerance": 0.0}
    with pytest.raises(ValueError, match="reference"):
        answer(Sample("t", question, "3", "", "3", True, True, 3, 0))
    assert len(reference_faults(kind, reference)) == 1


@pytest.mark.parametrize(
    ("kind", "reference", "choices"),
    [
        ("number", "-6 dB", ()),
        ("number", "1.2e3", ()),
        ("number", "seven", ()),
        ("transcript", "Turn it off.", ()),
        ("set", "dog, owl", ()),
        ("list", "dog", ()),
        ("math", r"\frac{1}{2}", ()),
        ("math", r"$\{1,2\}$", ()),
        ("math", r"\$200", ()),
        ("math", "x", ()),
        ("exact", "many", ()),
        ("choice", "dog", FOUR),
    ],
)
def test_a_reference_that_can_be_used_has_no_fault(kind: str, reference: str, choices: list[str]) -> None:
    assert reference_faults(kind, reference, choices) == []


@pytest.mark.parametrize(
    ("kind", "reference", "choices", "word"),
    [
        ("choice", "cat", FOUR, "not among the choices"),
        ("choice", "dog", ["dog", "the Dog!"], "tell the choices apart"),
        ("choice", "dog", ["dog"], "two choices or more"),
        ("math", r"\frac{1}{2", (), "braces that don't close"),
        ("math", "$3", (), "dollar sign"),
        ("math", "even", (), "no mathematics"),
        ("number", "440 Hz 441 Hz", (), "not a number"),
    ],
)
def test_a_fault_says_what_is_wrong(kind: str, reference: str, choices: list[str], word: str) -> None:
    assert word in " ".join(reference_faults(kind, reference, choices))


def test_scoring_a_choice_loads_neither_jiwer_nor_sympy() -> None:
    code = (
        "import sys; from rewards import Sample; from rewards.functions.answer import answer; import rewards.functions.mathematics;"
        "q = {'answer_kind': 'choice', 'answer': 'dog', 'choices': ['dog', 'owl']};"
        "assert answer(Sample('t', q, 'A', '', 'A', True, True, 1, 0)) == 1.0;"
        "print([name for name in ('jiwer', 'sympy', 'math_verify', 'rapidfuzz', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


KINDS = {
    "choice": "violin",
    "exact": "dog",
    "number": "3 s",
    "transcript": "a dog barks",
    "set": "dog, owl",
    "list": "dog, owl",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "loop", ["B ", "b. ", "the answer is b ", "dog ", "violin, ", "3 s, ", "3", " ", "\n", "and ", "- ", "(["]
)
def test_a_reply_that_goes_round_in_circles_is_judged_in_linear_time(kind: str, loop: str) -> None:
    question = {"answer_kind": kind, "answer": KINDS[kind], "choices": FOUR, "tolerance": 0.0}
    reply = "It is" + loop * 10_000 + "so"
    started = time.process_time()
    answer(Sample("t", question, reply, "", reply, True, True, 3, 0))
    assert time.process_time() - started < 1.5

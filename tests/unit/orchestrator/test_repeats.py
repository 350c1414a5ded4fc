"""What counts as a repetition, and what only looks like one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.stages.repeats import is_copy, repeat_metrics, source_phrases
from orchestrator.stages.scoring import Scored
from rewards import Sample, Verdict
from rollout import AnswerKind, FinishReason, Question, Trajectory, Turn


def scored(question: Question, reasoning: str, reply: str, correct: bool = False, number: int = 0) -> Scored:
    trajectory = Trajectory(f"t/{number}", question.id, number, (1,), (2,), (0.0,), (1,), (), FinishReason.STOP, reply)
    sample = Sample(trajectory.id, {"audio": []}, reply, reasoning, reply, True, True, 1, 1)
    return Scored(question, trajectory, sample, Verdict(True, 1.0, {"answer": float(correct)}), 0, 0)


def asked(name: str, answer: str, **fields: object) -> Question:
    return Question(name, "What makes this sound?", answer, AnswerKind.EXACT, **fields)  # type: ignore[arg-type]


DOG, OTHER_DOG, CAT = asked("a", "dog"), asked("b", "dog"), asked("c", "cat")
BARK = "I hear a dog. So dog."


def test_the_same_words_for_another_answer_are_a_repetition_for_the_same_answer_they_are_not() -> None:
    same_answer = [scored(DOG, BARK, "dog"), scored(OTHER_DOG, BARK, "dog"), scored(CAT, "I hear a cat.", "cat")]
    assert repeat_metrics(same_answer)["responses/repeated_share"] == 0.0
    other = [*same_answer, scored(CAT, "i hear  a DOG; so dog", "dog")]
    assert repeat_metrics(other)["responses/repeated_share"] == 0.75


def test_responses_without_reasoning_say_nothing_about_repetition() -> None:
    figures = repeat_metrics([scored(DOG, "", "dog"), scored(CAT, "", "dog")])
    assert "responses/repeated_share" not in figures
    assert "think/copied_share" not in figures


def test_a_question_is_stuck_when_its_samples_all_say_the_same_and_are_wrong() -> None:
    batch = [
        *(scored(DOG, BARK, "dog", correct=True, number=i) for i in range(3)),  # all right: learnt, not stuck
        *(scored(CAT, BARK, "dog", number=i) for i in range(3)),  # stuck
        *(scored(OTHER_DOG, f"Sound {i}.", "owl", number=i) for i in range(3)),  # wrong in different words
    ]
    assert repeat_metrics(batch)["responses/stuck_share"] == pytest.approx(1 / 3)
    assert "responses/stuck_share" not in repeat_metrics([scored(DOG, BARK, "dog")])


@pytest.mark.parametrize(
    ("question", "copy"),
    [
        (asked("a", "dog"), "What makes this sound?"),
        (asked("a", "dog", choices=("a big dog", "a small cat")), "A big dog, a small cat."),
        (asked("a", "dog", truth={"transcript": "Please close the door"}), "please close the door"),
        (asked("a", "dog", truth={"caption": "A dog barks in the rain"}), "A dog barks in the rain."),
        (asked("a", "dog", history=(Turn("human", "Listen to the second clip"),)), "Listen to the second clip."),
        (Question("a", "Write it down.", "the door is open", AnswerKind.TRANSCRIPT), "The door is open."),
        (asked("a", "dog", truth={"transcript": "请把门关上"}), "请把门关上。"),
    ],
)
def test_reasoning_that_only_says_what_the_question_carries_in_words_is_a_copy(question: Question, copy: str) -> None:
    source = source_phrases(question)
    assert is_copy(copy, source)
    assert not is_copy(f"{copy} The pitch falls by an octave at 0.4 s.", source)
    assert repeat_metrics([scored(question, copy, "dog")])["think/copied_share"] == 1.0


def test_less_than_a_phrase_is_no_copy() -> None:
    assert not is_copy("this sound", source_phrases(DOG))
    assert not is_copy("", source_phrases(DOG))


texts = st.sampled_from(["", BARK, "I hear a cat. So cat.", "What makes this sound?", "…", "Note 1 is about 440 Hz."])


@given(st.lists(st.tuples(st.sampled_from([DOG, OTHER_DOG, CAT]), texts, texts, st.booleans()), max_size=20))
def test_shares_are_between_0_and_1_and_need_no_order(rows: list[tuple[Question, str, str, bool]]) -> None:
    batch = [scored(*row, number=i) for i, row in enumerate(rows)]
    figures = repeat_metrics(batch)
    assert all(0.0 <= value <= 1.0 for value in figures.values())
    keys = ("responses/repeated_share", "think/copied_share")
    assert [figures.get(k) for k in keys] == [repeat_metrics(batch[::-1]).get(k) for k in keys]


@given(st.integers(2, 8), st.sampled_from([BARK, "So it is."]))
def test_one_response_to_everything_is_all_repetition(samples: int, text: str) -> None:
    batch = [scored(q, text, "owl", number=i) for q in (DOG, CAT) for i in range(samples)]
    figures = repeat_metrics(batch)
    assert figures["responses/repeated_share"] == figures["responses/stuck_share"] == 1.0

"""Reasoning and reply, of good and of broken responses; samples made of trajectories."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards import make_sample, split_response
from rollout.messages import AnswerKind, AudioRef, FinishReason, Question, Trajectory


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>\nI hear a dog.\n</think>\ndog", ("I hear a dog.", "dog", True)),
        ("<think>\n\n</think>\ndog", ("", "dog", True)),
        ("<think>\nI hear a dog.\n</think>\ndog<|EOT|>", ("I hear a dog.", "dog", True)),
        ("<think>x</think>", ("x", "", True)),
        ("dog", ("", "dog", False)),
        ("", ("", "", False)),
        ("<think>\nI hear", ("I hear", "", False)),
        ("well <think>\nx\n</think>\ndog", ("x", "dog", False)),
        (" <think>x</think>dog", ("x", "dog", False)),
        ("<think>a</think>dog<think>b</think>cat", ("a</think>dog<think>b", "cat", False)),
        ("<think><think>a</think>dog", ("<think>a", "dog", False)),
        ("a</think>dog", ("", "dog", False)),
        ("</think>dog<think>", ("", "dog<think>", False)),
    ],
)
def test_as_much_as_can_be_told_apart_is_kept(text: str, expected: tuple[str, str, bool]) -> None:
    assert split_response(text) == expected


plain = st.text(alphabet=st.characters(exclude_characters="<>|", exclude_categories=["Cs"])).map(str.strip)


@given(plain, plain)
def test_a_well_formed_response_comes_apart_exactly(reasoning: str, reply: str) -> None:
    assert split_response(f"<think>\n{reasoning}\n</think>\n{reply}") == (reasoning, reply, True)


@given(st.lists(st.sampled_from(["<think>", "</think>", "a", " ", "\n"]), max_size=8).map("".join))
def test_well_formed_means_one_block_at_the_start(text: str) -> None:
    well_formed = split_response(text)[2]
    once = text.count("<think>") == 1 == text.count("</think>")
    assert well_formed == (once and text.startswith("<think>"))


QUESTION = Question("q", "Which?", "dog", AnswerKind.CHOICE, ("dog", "cat"), audio=(AudioRef("/a.wav", "0" * 64, 1.0),))


def trajectory(text: str, tokens: int, finish: FinishReason = FinishReason.STOP, question_id: str = "q") -> Trajectory:
    row = (0,) * tokens
    return Trajectory(f"s/1/{question_id}/0", question_id, 0, (1, 2), row, (0.0,) * tokens, row, (), finish, text)


def test_a_sample_carries_the_question_and_the_counts() -> None:
    sample = make_sample(QUESTION, trajectory("<think>\nI hear a dog.\n</think>\ndog", 9), reasoning_tokens=5)
    assert (sample.reasoning, sample.reply, sample.well_formed, sample.finished) == ("I hear a dog.", "dog", True, True)
    assert (sample.response_tokens, sample.reasoning_tokens) == (9, 5)
    assert sample.question["answer"] == "dog" and sample.question["audio"][0]["seconds"] == 1.0


def test_reasoning_length_is_estimated_when_nobody_counted() -> None:
    assert make_sample(QUESTION, trajectory("<think>" + "x" * 17 + "</think>", 16)).reasoning_tokens == 8
    assert make_sample(QUESTION, trajectory("dog", 4)).reasoning_tokens == 0
    assert make_sample(QUESTION, trajectory("", 1)).reasoning_tokens == 0


def test_a_cut_response_is_not_finished() -> None:
    assert not make_sample(QUESTION, trajectory("<think>\nI", 2, FinishReason.LENGTH)).finished


def test_a_trajectory_of_another_question_is_refused() -> None:
    with pytest.raises(ValueError, match="answers question 'other'"):
        make_sample(QUESTION, trajectory("dog", 1, question_id="other"))

"""Text problems: every answer and every step holds, splits share nothing, the same seed gives the same bytes."""

from __future__ import annotations

import dataclasses
import json
import random
import re
from pathlib import Path

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy.physics import units as sympy_units

from orchestrator.datasets import DataError, load_questions
from orchestrator.datasets.schema import check_record
from orchestrator.datasets.text_reasoning import (
    EASY,
    FAMILIES,
    Difficulty,
    build_text_reasoning,
    reasoning_of,
    text_demonstrations,
    text_questions,
    verified,
)
from orchestrator.datasets.text_reasoning.build import HELD_OUT_ONE_IN, split_of
from orchestrator.datasets.text_reasoning.problems import RELATIONS, UNITS
from rewards.functions.answer import answer
from rewards.parse import split_response
from rewards.sample_input import parse_sample
from rollout.messages import AnswerKind, Question
from rollout.prompts import response_text

HARD = Difficulty(largest=9999, factor=99, numbers=6, people=6, turned=True)
DIFFICULTIES = st.sampled_from([EASY, HARD, Difficulty(largest=10, factor=2, numbers=2)])
EQUATION = re.compile(r"[\dx][\dx +*/-]*(?: [=<>] [\dx][\dx +*/-]*)+")


def draw(family: str, seed: int, difficulty: Difficulty) -> Question:
    problem = FAMILIES[family](random.Random(seed), difficulty)
    assert problem.family == family
    return Question(
        "q", problem.prompt, problem.answer, problem.answer_kind, problem.choices, task=family, truth=problem.truth
    )


@given(family=st.sampled_from(sorted(FAMILIES)), seed=st.integers(0, 2**40), difficulty=DIFFICULTIES)
@settings(max_examples=400, deadline=None)
def test_every_answer_is_what_the_words_give_and_every_number_is_in_range(
    family: str, seed: int, difficulty: Difficulty
) -> None:
    question = draw(family, seed, difficulty)
    assert verified(question), question
    numbers = [int(n) for n in re.findall(r"\d+", f"{question.prompt} {question.answer} {' '.join(question.choices)}")]
    assert all(0 < n <= difficulty.largest for n in numbers), question
    assert check_record(json.loads(question.to_json())) == []


@given(family=st.sampled_from(sorted(FAMILIES)), seed=st.integers(0, 2**40))
@settings(max_examples=200, deadline=None)
def test_another_answer_is_not_verified(family: str, seed: int) -> None:
    question = draw(family, seed, EASY)
    others = question.choices or (f"{question.answer}, 1", str(sum(map(int, question.answer.split(", "))) + 1))
    for other in others:
        if other != question.answer:
            assert not verified(dataclasses.replace(question, answer=other))


@given(family=st.sampled_from(sorted(FAMILIES)), seed=st.integers(0, 2**40), difficulty=DIFFICULTIES)
@settings(max_examples=300, deadline=None)
def test_every_step_of_the_reasoning_holds_and_the_last_sentence_is_the_conclusion(
    family: str, seed: int, difficulty: Difficulty
) -> None:
    question = draw(family, seed, difficulty)
    reasoning = reasoning_of(question)
    assert reasoning.endswith(f" So {question.answer}.")
    steps = [m.group() for m in EQUATION.finditer(reasoning)]
    assert steps or "row" in question.truth
    for step in steps:
        parts = re.split(r" ([=<>]) ", step)
        solution = {"x": sympy.Integer(question.answer)} if family == "algebra" else {}
        values = [sympy.sympify(re.sub(r"(\d) x", r"\1*x", part)).subs(solution) for part in parts[::2]]
        for sign, one, other in zip(parts[1::2], values, values[1:], strict=False):
            assert bool({"=": one == other, "<": one < other, ">": one > other}[sign]), (step, reasoning)


@given(family=st.sampled_from(sorted(FAMILIES)), seed=st.integers(0, 2**40))
@settings(max_examples=100, deadline=None)
def test_the_answer_reward_takes_the_reference_and_refuses_a_changed_one(family: str, seed: int) -> None:
    question = draw(family, seed, EASY)

    def score(reply: str) -> float:
        fields = json.loads(question.to_json())
        sample = parse_sample({"question": fields, "response": response_text("So it is.", reply)}, Path.cwd(), "x")
        return answer(sample)

    assert score(question.answer) == 1.0
    if question.answer_kind is AnswerKind.CHOICE:
        assert all(score(choice) == 0.0 for choice in question.choices if choice != question.answer)
    else:
        assert score("0") == 0.0


def test_units_are_those_that_sympy_knows() -> None:
    known = {"pounds": "pound", "kilohertz": None, "dimes": None, "nickels": None, "gallons": None, "ounces": None}
    checked = 0
    for large, small, factor in UNITS:
        one, other = (getattr(sympy_units, known.get(name) or name, None) for name in (large, small))
        if one is None or other is None or isinstance(one, type(sympy_units)) or large in known or small in known:
            continue
        if large == "years":  # there a year has 365.24 days, and no month
            continue
        assert sympy_units.convert_to(one, other) == factor * other, (large, small)
        checked += 1
    assert checked >= 8


def key_of(question: Question) -> tuple[object, ...]:
    """What is asked, whatever the order of the numbers in it; people and their order count."""
    truth = question.truth
    if "numbers" in truth:
        return (truth["asked"], *sorted(truth["numbers"]))
    if truth.get("sign") in ("+", "*"):
        return (truth["sign"], *sorted((truth["a"], truth["b"])))
    return (question.prompt,)


def test_problems_of_the_two_splits_are_different_and_no_problem_comes_twice() -> None:
    splits = text_questions(5, {"held_out": 120, "train": 900})
    assert {name: len(items) for name, items in splits.items()} == {"held_out": 120, "train": 900}

    keys = [key_of(q) for items in splits.values() for q in items]
    assert len(set(keys)) == len(keys)
    assert {q.task for q in splits["held_out"]} == {q.task for q in splits["train"]} == set(FAMILIES)
    assert all(q.dataset == "text_reasoning" and q.domain == "text" and not q.is_audio for q in splits["train"])


@given(
    seeds=st.tuples(st.integers(0, 50), st.integers(0, 50)),
    sizes=st.tuples(st.integers(0, 120), st.integers(0, 60)),
    one=DIFFICULTIES,
    other=DIFFICULTIES,
)
@settings(max_examples=20, deadline=None)
def test_no_set_trains_on_what_another_holds_out_whatever_size_seed_and_difficulty(
    seeds: tuple[int, int], sizes: tuple[int, int], one: Difficulty, other: Difficulty
) -> None:
    trained = text_questions(seeds[0], {"train": sizes[0]}, one)["train"]
    held_out = text_questions(seeds[1], {"held_out": min(sizes[1], 24)}, other)["held_out"]
    assert not {key_of(q) for q in trained} & {key_of(q) for q in held_out}


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_a_larger_set_holds_the_smaller_one_under_the_same_ids(split: str) -> None:
    small, large = ({(q.id, q.prompt, q.choices) for q in text_questions(3, {split: n})[split]} for n in (30, 90))
    assert small < large


def test_a_sixth_of_all_problems_is_held_out_in_every_family() -> None:
    for draw_one in FAMILIES.values():
        problems = {p.key: p for p in (draw_one(random.Random(seed), HARD) for seed in range(3000))}
        share = sum(split_of(p) == "held_out" for p in problems.values()) / len(problems)
        assert abs(share - 1 / HELD_OUT_ONE_IN) < 5 * (5 / 36 / len(problems)) ** 0.5


def test_another_split_is_refused() -> None:
    with pytest.raises(ValueError, match="not test"):
        text_questions(1, {"test": 3})


def test_a_build_is_whole_repeatable_and_replaces_only_itself(tmp_path: Path) -> None:
    said: list[str] = []
    first = build_text_reasoning(tmp_path / "a", 7, train=60, held_out=12, progress=said.append)
    again = build_text_reasoning(tmp_path / "b", 7, train=60, held_out=12, progress=said.append)
    other = build_text_reasoning(tmp_path / "c", 8, train=60, held_out=12, progress=said.append)
    names = ("train.jsonl", "held_out.jsonl", "manifest.json")
    assert [(first / n).read_bytes() for n in names] == [(again / n).read_bytes() for n in names]
    assert (first / "train.jsonl").read_bytes() != (other / "train.jsonl").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c"]
    assert len(load_questions(first / "train.jsonl")) == 60
    assert all(verified(q) for name in names[:2] for q in load_questions(first / name))
    build_text_reasoning(tmp_path / "a", 8, train=60, held_out=12)
    assert (first / "train.jsonl").read_bytes() == (other / "train.jsonl").read_bytes()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("keep me")
    with pytest.raises(DataError, match="holds other files"):
        build_text_reasoning(mine, 7, train=6, held_out=2)
    assert (mine / "notes.txt").read_text() == "keep me"


def test_more_problems_than_there_are_is_refused() -> None:
    with pytest.raises(DataError, match="ask for fewer"):
        text_questions(1, {"train": 10_000}, Difficulty(largest=10, factor=2, numbers=2))
    with pytest.raises(DataError, match="largest"):
        Difficulty(largest=5)


def test_demonstrations_carry_reasoning_and_answer_in_the_agreed_form() -> None:
    (demonstration, *_) = text_demonstrations(text_questions(2, {"train": 4})["train"])
    assert demonstration.source == "task_reasoning"
    text = response_text(demonstration.reasoning, demonstration.reply)
    assert split_response(text) == (demonstration.reasoning, demonstration.question.answer, True)


def test_words_of_relations_differ() -> None:
    words = [word for relation in RELATIONS for word in relation]
    assert len(set(words)) == len(words)

"""Blocks of samples: the same samples come out, a shared question is told from a changed one."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards import Sample
from rewards.sample_block import Block, BlockLines, give_question, pack_block
from rewards.sample_wire import decode_sample, encode_sample

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
questions = st.dictionaries(st.text(max_size=8), json_values, max_size=5)
samples = st.builds(
    Sample,
    trajectory_id=st.text(),
    question=questions,
    text=st.text(),
    reasoning=st.text(),
    reply=st.text(),
    well_formed=st.booleans(),
    finished=st.booleans(),
    response_tokens=st.integers(0, 10**6),
    reasoning_tokens=st.integers(0, 10**6),
)


@given(st.lists(samples, max_size=6), st.lists(st.integers(0, 5), max_size=12))
def test_a_block_gives_what_the_samples_lines_give_in_order(drawn: list[Sample], picks: list[int]) -> None:
    batch = [dataclasses.replace(drawn[i % len(drawn)], trajectory_id=f"t/{n}") for n, i in enumerate(picks) if drawn]
    packed = pack_block(batch)
    block = Block(packed)
    assert len(block) == len(batch)
    assert [block.sample(i) for i in range(len(block))] == [decode_sample(encode_sample(sample)) for sample in batch]
    assert list(BlockLines(packed)) == [encode_sample(sample) for sample in batch]
    made = block.bare_samples()
    for start, stop, place in block.runs():
        question = block.question(place)
        for sample in made[start:stop]:
            give_question(sample, question)
        assert block.is_intact(question, place)
    assert made == batch


def sample(question: dict[str, Any]) -> Sample:
    return Sample("t", question, "text", "", "text", False, True, 1, 0)


def test_samples_of_one_question_lie_in_one_run_and_it_travels_once() -> None:
    first, second = {"prompt": "x" * 5000}, {"prompt": "y" * 5000}
    packed = pack_block([sample(first)] * 3 + [sample(second)] * 2 + [sample(first)])
    assert [run[:2] for run in Block(packed).runs()] == [(0, 3), (3, 5), (5, 6)]
    assert len(packed) < 12_000


@pytest.mark.parametrize(
    "change",
    [
        lambda question: question.update(answer="other"),
        lambda question: question["choices"].append("more"),
        lambda question: question["truth"].clear(),
        lambda question: question.pop("answer"),
    ],
)
def test_a_changed_question_is_noticed(change: Any) -> None:
    block = Block(pack_block([sample({"answer": "dog", "choices": ["dog"], "truth": {"a": 1.5}})]))
    question = block.question(0)
    assert block.is_intact(question, 0)
    change(question)
    assert not block.is_intact(question, 0)


def test_what_is_no_block_and_a_field_of_the_wrong_type_are_refused() -> None:
    with pytest.raises(msgspec.MsgspecError):
        Block(b"nothing")
    with pytest.raises(msgspec.MsgspecError):
        Block(pack_block([dataclasses.replace(sample({}), reply=3)]))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        pack_block([sample({"answer": object()})])

"""Conversations: exact shares, honest denials without a clip, follow-ups that need their earlier turn."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.datasets import DataError, Demonstration, read_demonstrations
from orchestrator.datasets.conversations import DEMONSTRATIONS, build_conversations, conversations
from orchestrator.datasets.hearing_prompts import WORDINGS
from rewards.functions.cognition import denials


def no_clip(items: list[Demonstration]) -> list[Demonstration]:
    return [item for item in items if item.question.task == "no_clip"]


@given(seed=st.integers(0, 2**31), count=st.integers(0, 80), share=st.floats(0, 1), reasoned=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_shares_are_exact_and_nothing_has_a_recording(seed: int, count: int, share: float, reasoned: float) -> None:
    items = conversations(seed, count, no_clip_share=share, reasoning_share=reasoned)
    assert len(items) == count == len({item.question.id for item in items})
    assert len(no_clip(items)) == round(count * share)
    assert sum(bool(item.reasoning) for item in items) == round(count * reasoned)
    for item in items:
        assert not item.question.is_audio and item.source == "conversation"
        assert item.reply == item.question.answer and item.question.split == "train"
        roles = [turn.role for turn in item.question.history]
        assert roles == ["human", "assistant"] * (len(roles) // 2)


@given(seed=st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_only_turns_without_a_clip_that_ask_for_one_deny_hearing(seed: int) -> None:
    for item in conversations(seed, 60):
        asked = item.question.prompt in WORDINGS["train"]
        assert asked == (item.question.task == "no_clip")
        assert bool(denials(item.reply)) == asked, item
        assert bool(denials(item.reasoning)) == (asked and bool(item.reasoning)), item


def test_denials_come_in_several_wordings_and_no_held_out_wording_is_used() -> None:
    items = no_clip(conversations(7))
    assert len(items) == 240
    assert len({item.reply for item in items}) >= 6
    assert {item.question.prompt for item in items} == set(WORDINGS["train"])
    assert sum(bool(item.question.history) for item in items) > 60


@given(seed=st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_a_follow_up_is_answered_by_what_an_earlier_turn_said(seed: int) -> None:
    found = [item for item in conversations(seed, 60) if item.question.task == "follow_up"]
    assert found
    for item in found:
        told = " ".join(turn.text for turn in item.question.history if turn.role == "human")
        wanted = re.findall(r"\w+", item.reply)[-1]
        assert wanted in re.findall(r"\w+", told), item
        assert wanted not in re.findall(r"\w+", item.question.prompt)
        assert sum(name in told for name in ("I am ", "I like ", "My number is ")) == 1, item


def test_a_build_is_repeatable_and_readable(tmp_path: Path) -> None:
    said: list[str] = []
    first = build_conversations(tmp_path / "a", 7, 100, progress=said.append)
    again = build_conversations(tmp_path / "b", 7, 100)
    for name in (DEMONSTRATIONS, "manifest.json"):
        assert (first / name).read_bytes() == (again / name).read_bytes()
    assert read_demonstrations(first / DEMONSTRATIONS) == conversations(7, 100)
    assert said == [f"100 conversations in {tmp_path / 'a'}"]
    assert conversations(7, 100) != conversations(8, 100)


def test_shares_outside_0_to_1_are_refused() -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        conversations(1, 10, no_clip_share=1.4)

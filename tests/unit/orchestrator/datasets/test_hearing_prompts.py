"""Prompts about hearing: on real clips, in wordings of their own for held-out data, with replies that hear."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from orchestrator.datasets.hearing_prompts import DENIALS, WORDINGS, hearing_demonstrations, hearing_prompts
from orchestrator.datasets.schema import check_record
from rewards.functions.cognition import denials
from rollout.messages import AnswerKind, AudioRef, Question, Turn


def heard(number: int, *kinds: str, **changes: Any) -> Question:
    events = [{"kind": kind, "start_s": float(i), "end_s": i + 0.5} for i, kind in enumerate(kinds)]
    question = Question(
        f"train-{number:05d}-order",
        "Which came first?",
        kinds[0] if kinds else "dog",
        AnswerKind.CHOICE,
        kinds,
        audio=(AudioRef(f"/clips/{number}.wav", f"{number:064x}", 2.0),),
        domain="sound",
        split="train",
        source="somewhere",
        truth={"events": events},
    )
    return dataclasses.replace(question, **changes)


def words(split: str) -> set[str]:
    return set(re.findall(r"\w+", " ".join(WORDINGS[split]).lower()))


def test_held_out_wordings_are_unseen_but_use_no_other_words() -> None:
    assert not set(WORDINGS["train"]) & set(WORDINGS["held_out"])
    assert words("held_out") <= words("train")


def test_a_prompt_asks_openly_about_the_clip_and_keeps_its_truth() -> None:
    source = heard(7, "owl", "bell")
    (prompt,) = hearing_prompts([source], 3, "train")
    assert (prompt.id, prompt.task, prompt.dataset) == (
        f"train-hearing-00007-order-{WORDINGS['train'].index(prompt.prompt):02d}",
        "self_cognition",
        "hearing_prompts",
    )
    assert (prompt.answer, prompt.answer_kind, prompt.choices) == ("owl", AnswerKind.EXACT, ())
    assert (prompt.audio, prompt.truth, prompt.source) == (source.audio, source.truth, source.source)
    assert prompt.prompt in WORDINGS["train"]
    assert check_record(dataclasses.asdict(prompt) | {"audio": [], "history": [], "choices": []}) == []


def test_every_clip_is_asked_once_and_questions_that_do_not_fit_are_passed_over() -> None:
    same_clip = heard(1, "dog", id="train-00001-source")
    no_clip = heard(2, "dog", audio=())
    two_clips = heard(3, "dog", audio=heard(3).audio * 2)
    no_events = heard(4, truth={"seconds": 2.0})
    earlier_clip = heard(5, "dog", history=(Turn("human", "Listen.", heard(6).audio),))
    asked = hearing_prompts([heard(1, "dog"), same_clip, no_clip, two_clips, no_events, earlier_clip], 0, "train")
    assert [prompt.id[:-3] for prompt in asked] == ["train-hearing-00001-order"]


@pytest.mark.parametrize("split", sorted(WORDINGS))
def test_prompts_about_one_clip_share_an_id_only_when_they_share_the_wording(split: str) -> None:
    asked = [hearing_prompts([heard(1, "dog")], seed, split)[0] for seed in range(60)]
    assert len({(prompt.id, prompt.prompt) for prompt in asked}) == len({prompt.id for prompt in asked})
    assert {prompt.prompt for prompt in asked} == set(WORDINGS[split])


def test_what_a_clip_is_asked_does_not_depend_on_the_other_clips() -> None:
    many = [heard(number, "dog") for number in range(200)]
    whole = hearing_prompts(many, 5, "train")
    assert hearing_prompts(many[50:60], 5, "train") == whole[50:60]
    assert {prompt.prompt for prompt in whole} == set(WORDINGS["train"])
    assert {p.prompt for p in hearing_prompts(many, 5, "held_out")} == set(WORDINGS["held_out"])
    assert [p.prompt for p in whole] != [p.prompt for p in hearing_prompts(many, 6, "train")]


@pytest.mark.parametrize(
    ("kinds", "reply"),
    [
        (("dog",), "I hear a dog."),
        (("owl",), "I hear an owl."),
        (("seven",), "I hear seven."),
        (("water", "bell"), "I hear water, then a bell."),
        (("drum", "drum", "drum"), "I hear a drum."),
    ],
)
def test_demonstrated_replies_hear_and_deny_nothing(kinds: tuple[str, ...], reply: str) -> None:
    (item,) = hearing_demonstrations(hearing_prompts([heard(1, *kinds)], 0, "train"))
    assert (item.reply, item.reasoning, item.source) == (reply, "", "audio_direct")
    assert denials(item.reply) == []


def test_every_denial_is_recognised_and_no_question_is() -> None:
    assert [text for text in DENIALS if not denials(text)] == []
    assert [text for side in WORDINGS.values() for text in side if denials(text)] == []


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="train, held_out, not 'test'"):
        hearing_prompts([], 0, "test")

"""Files of one run: no id twice, nothing both trained on and held out; the sets made here keep to it."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.config.schema import ExperimentConfig
from orchestrator.data_stage import load_or_build
from orchestrator.datasets import DataError, write_questions
from orchestrator.datasets.conversations.build import conversations
from orchestrator.datasets.overlaps import check_overlaps, overlaps
from orchestrator.datasets.text_reasoning import Difficulty, text_questions
from orchestrator.progress import ProgressView
from rollout.messages import AnswerKind, AudioRef, Question, Turn

ROLES = ("train", "held_out", "text_train", "text_held_out", "conversations")
FILES = {role: Path(f"/data/{role}.jsonl") for role in ROLES}


def text(name: str, prompt: str = "", **more: object) -> Question:
    return Question(name, prompt or f"What is {name}?", "7", AnswerKind.NUMBER, **more)  # type: ignore[arg-type]


def audio(name: str, digest: str) -> Question:
    clip = AudioRef(f"/clips/{name}.wav", digest, 1.0)
    return Question(name, "What do you hear?", "dog", AnswerKind.EXACT, audio=(clip,))


def found(**roles: Sequence[Question]) -> list[str]:
    return [str(problem) for problem in overlaps(roles, FILES)]


def test_what_two_roles_share_is_named_with_both_files_and_examples() -> None:
    train = [audio(f"t{i}", f"{i:064x}") for i in range(9)]
    held_out = [audio("t1", "f" * 64), *(audio(f"h{i}", f"{i:064x}") for i in range(2, 7))]
    ids, clips = found(train=train, held_out=held_out)
    assert ids == "/data/train.jsonl: (train) shares ids with /data/held_out.jsonl (held_out): 't1'"
    assert "(train) shares clips with /data/held_out.jsonl" in clips
    assert "/clips/h2.wav (of 't2' and 'h2')" in clips and clips.endswith(" and 2 more")
    with pytest.raises(DataError, match="take what is held out out of the training files") as refused:
        check_overlaps({"train": train, "held_out": held_out}, FILES)
    assert ids in str(refused.value) and clips in str(refused.value)


def test_ids_are_compared_between_all_roles_and_contents_only_across_the_border() -> None:
    one = found(text_train=[text("a", "3 + 4?")], text_held_out=[text("b", "3 + 4?")])
    assert len(one) == 1 and "shares questions" in one[0] and "'3 + 4?' ('a' and 'b')" in one[0]
    assert not found(train=[audio("a", "1")], text_train=[text("b")], conversations=[audio("c", "1")])
    assert not found(text_train=[text("a", "3 + 4?")], train=[text("b", "3 + 4?")])
    (ids,) = found(held_out=[audio("a", "1")], text_held_out=[text("a")])
    assert "shares ids" in ids
    (leak,) = found(held_out=[audio("a", "1")], conversations=[audio("c", "1")])
    assert "shares clips" in leak


@pytest.mark.parametrize(
    "change", [{"prompt": "3 - 1?"}, {"choices": ("7", "8")}, {"history": (Turn("human", "Hi!"),)}]
)
def test_a_text_question_is_another_by_its_words_choices_or_turns(change: dict[str, object]) -> None:
    asked = text("a", "3 + 4?")
    other = dataclasses.replace(asked, id="b", **change)  # type: ignore[arg-type]
    assert not found(text_train=[asked], text_held_out=[other])


def test_clips_of_earlier_turns_count() -> None:
    turn = Turn("human", "Listen.", audio("x", "1").audio)
    (leak,) = found(train=[audio("a", "1")], held_out=[text("b", history=(turn,))])
    assert "shares clips" in leak


def test_a_demonstration_may_show_a_training_question_but_no_other_and_none_held_out() -> None:
    asked = text("a")
    assert not found(text_train=[asked], conversations=[asked, asked])
    assert found(text_train=[asked], conversations=[text("a", "Another?")])
    assert found(text_held_out=[asked], conversations=[asked])


@pytest.mark.parametrize(("train", "held_out", "largest", "factor"), [(800, 120, 20, 5), (2000, 200, 49, 9)])
def test_the_generated_sets_share_nothing(train: int, held_out: int, largest: int, factor: int) -> None:
    made = text_questions(7, {"train": train, "held_out": held_out}, Difficulty(largest=largest, factor=factor))
    talks = [item.question for item in conversations(7)]
    assert not found(text_train=made["train"], text_held_out=made["held_out"], conversations=talks)


def test_a_run_with_overlapping_files_is_refused_before_anything_starts(tmp_path: Path) -> None:
    config = ExperimentConfig()
    config.data.train, config.data.held_out = (str(tmp_path / f"{name}.jsonl") for name in ("mine", "theirs"))
    write_questions(Path(config.data.train), [text("a"), text("b")])
    write_questions(Path(config.data.held_out), [text("c")])
    progress = ProgressView(Console(file=io.StringIO()))
    assert len(load_or_build(config, progress).train) == 2
    write_questions(Path(config.data.held_out), [text("a"), text("c")])
    with pytest.raises(DataError, match=r"mine\.jsonl: \(train\) shares ids with .*theirs\.jsonl \(held_out\): 'a'"):
        load_or_build(config, progress)

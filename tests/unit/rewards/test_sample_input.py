"""Samples in the three forms that people and programs write them in."""

from __future__ import annotations

import gzip
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from rewards import RewardError, StoredTrajectory, Verdict, write_stored
from rewards.sample_input import BadSample, parse_sample, read_samples

QUESTION = {"prompt": "What?", "answer": "dog", "answer_kind": "choice", "choices": ["dog", "owl"]}
WRITTEN = {"question": QUESTION, "response": "<think>\nI hear a dog.\n</think>\nA"}


def test_a_written_sample_is_split_and_filled_up(tmp_path: Path) -> None:
    sample = parse_sample(WRITTEN | {"id": "mine"}, tmp_path, "other")
    assert (sample.trajectory_id, sample.reasoning, sample.reply) == ("mine", "I hear a dog.", "A")
    assert sample.well_formed and sample.finished and sample.question["audio"] == []
    assert parse_sample(WRITTEN, tmp_path, "other").trajectory_id == "other"


def test_clips_are_relative_to_the_folder(tmp_path: Path) -> None:
    written = {"question": QUESTION | {"audio": [{"path": "a.wav"}]}, "response": "A"}
    assert parse_sample(written, tmp_path, "x").clips[0].path == str(tmp_path / "a.wav")


def test_a_whole_sample_and_a_stored_trajectory_come_back_as_they_were(tmp_path: Path) -> None:
    sample = parse_sample(WRITTEN, tmp_path, "t/1")
    assert parse_sample(asdict(sample), tmp_path, "ignored") == sample
    path = tmp_path / "update_000000.jsonl.gz"
    write_stored(path, [StoredTrajectory(sample, Verdict(True, 1.0))] * 2)
    assert list(read_samples(path)) == [sample, sample]


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (3, ""),
        ({}, "question"),
        ({"question": QUESTION}, "response"),
        ({"question": 3, "response": "A"}, "question"),
        ({"question": QUESTION, "response": None}, "response"),
        ({"question": QUESTION, "response": "A", "reponse": "B"}, "reponse"),
        ({"question": QUESTION | {"anwser": "x"}, "response": "A"}, "question.anwser"),
        ({"question": QUESTION | {"choices": "dog"}, "response": "A"}, "question.choices"),
        ({"question": QUESTION | {"tolerance": "1"}, "response": "A"}, "question.tolerance"),
        ({"question": QUESTION | {"audio": ["a.wav"]}, "response": "A"}, "question.audio[0]"),
        ({"question": QUESTION | {"audio": [{"path": "a"}, {}]}, "response": "A"}, "question.audio[1].path"),
        ({"question": QUESTION, "response": "A", "finished": 1}, "finished"),
        ({"question": QUESTION, "response": "A", "reasoning_tokens": True}, "reasoning_tokens"),
        ({"trajectory_id": "x", "question": {}}, ""),
    ],
)
def test_a_bad_sample_is_refused_with_its_field(data: Any, field: str, tmp_path: Path) -> None:
    with pytest.raises(BadSample) as caught:
        parse_sample(data, tmp_path, "x")
    assert caught.value.field == field and caught.value.message


def test_a_bad_line_is_named_by_file_and_number(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl.gz"
    path.write_bytes(gzip.compress((json.dumps(WRITTEN) + "\n\n" + '{"response": "A"}\n').encode()))
    with pytest.raises(RewardError, match=r"mine\.jsonl\.gz, line 3: .*question: missing"):
        list(read_samples(path))
    path.write_bytes(b"\x1f\x8b")
    with pytest.raises(RewardError, match="can't be read"):
        list(read_samples(path))

"""Recordings in earlier turns are checked, resolved and seen by rewards as those of the last turn are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from orchestrator.datasets import DataError, load_questions, write_questions
from rewards.composition import modality_of
from rewards.endpoints.remote_wire import sample_json
from rewards.sample_input import BadSample, parse_sample

RATE = 16_000


def line(number: int, **changes: Any) -> dict[str, Any]:
    return {"id": f"q{number}", "prompt": "And now?", "answer": "dog", "answer_kind": "exact"} | changes


def listen(*paths: str) -> list[dict[str, Any]]:
    return [
        {"role": "human", "text": "Listen.", "audio": [{"path": path} for path in paths]},
        {"role": "assistant", "text": "A bell."},
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index, name in enumerate(("a.wav", "b.wav", "c.wav"), 1):
        time = np.arange(RATE * index) / RATE
        soundfile.write(tmp_path / name, 0.3 * np.sin(2 * np.pi * 220 * index * time), RATE)
    return tmp_path


def test_clips_of_every_turn_get_absolute_paths_digests_and_lengths(folder: Path) -> None:
    file = folder / "data.jsonl"
    file.write_text(json.dumps(line(1, history=listen("a.wav", "b.wav"), audio=[{"path": "c.wav"}])) + "\n")
    (question,) = load_questions(file)
    assert [clip.path for clip in question.clips] == [str(folder / name) for name in ("a.wav", "b.wav", "c.wav")]
    assert [clip.seconds for clip in question.clips] == [1.0, 2.0, 3.0]
    assert len({clip.sha256 for clip in question.clips}) == 3
    assert question.history[1].audio == ()
    (folder / "sub").mkdir()
    write_questions(folder / "sub" / "copy.jsonl", [question])
    written = json.loads((folder / "sub" / "copy.jsonl").read_text())
    assert [clip["path"] for clip in written["history"][0]["audio"]] == ["../a.wav", "../b.wav"]
    assert "audio" not in written["history"][1]


def test_faults_of_clips_in_turns_are_named_by_line(folder: Path) -> None:
    file = folder / "data.jsonl"
    lines = [
        line(1, history=listen("nowhere.wav")),
        line(2, history=[{"role": "human", "text": "Listen.", "audio": [{"file": "a.wav"}]}]),
        line(3, history=[{"role": "human", "text": "Listen.", "clips": []}]),
    ]
    file.write_text("".join(json.dumps(record) + "\n" for record in lines))
    with pytest.raises(DataError) as caught:
        load_questions(file)
    told = {p.line: p.message for p in caught.value.problems}
    assert "is missing" in told[1]
    assert "turn 1 of 'history'" in told[2] and "'path'" in told[2]
    assert "turn 1 of 'history'" in told[3]


def test_rewards_see_the_clips_of_every_turn_in_order(folder: Path) -> None:
    written = {
        "question": {"answer": "dog", "history": listen("a.wav"), "audio": [{"path": "b.wav"}]},
        "response": "dog",
    }
    sample = parse_sample(written, folder, "x")
    assert [clip.path for clip in sample.clips] == [str(folder / "a.wav"), str(folder / "b.wav")]
    only_earlier = parse_sample(written | {"question": {"answer": "dog", "history": listen("a.wav")}}, folder, "x")
    assert modality_of(only_earlier.question) == "audio"
    assert modality_of({"history": [{"role": "human", "text": "Hi", "audio": ()}], "audio": ()}) == "text"


def test_no_path_of_this_machine_goes_to_a_remote_reward(folder: Path) -> None:
    question = {"answer": "dog", "history": listen("a.wav"), "audio": [{"path": "b.wav"}]}
    sample = parse_sample({"question": question, "response": "dog"}, folder, "x")
    sent = sample_json(sample).decode()
    assert "wav" not in sent and "Listen." in sent
    assert sample.clips[0].path.endswith("a.wav")


@pytest.mark.parametrize(
    ("history", "field"),
    [(["Hi"], "history[0]"), ([*listen("a.wav")[:1], {"role": "human", "audio": ["b"]}], "history[1].audio[0]")],
)
def test_a_turn_of_the_wrong_form_is_refused_with_its_place(folder: Path, history: list[Any], field: str) -> None:
    with pytest.raises(BadSample, match=f"question.{field}".replace("[", r"\[")):
        parse_sample({"question": {"answer": "dog", "history": history}, "response": "dog"}, folder, "x")

"""Demonstrations come back as they were written; every bad line is named at once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from orchestrator.datasets import DataError, Demonstration, direct_audio, read_demonstrations, write_demonstrations
from rollout.audio.decode import sha256_of_file
from rollout.messages import AnswerKind, AudioRef, Question, Turn

TEXT = Question("t1", "3 + 4?", "7", AnswerKind.NUMBER)


@pytest.fixture
def clip(tmp_path: Path) -> AudioRef:
    path = tmp_path / "clips" / "a.wav"
    path.parent.mkdir()
    soundfile.write(path, 0.3 * np.sin(np.arange(16_000) / 5), 16_000)
    return AudioRef(str(path), sha256_of_file(path), 1.0)


def test_demonstrations_are_read_back_with_clips_beside_the_file(tmp_path: Path, clip: AudioRef) -> None:
    heard = Question("a1", "What is it?", "dog", AnswerKind.EXACT, audio=(clip,), truth={"events": []})
    talked = Question("c1", "Bye!", "Bye!", AnswerKind.EXACT, history=(Turn("human", "Hi!"), Turn("assistant", "Hi!")))
    items = [
        Demonstration(TEXT, "3 plus 4 is 7. So 7.", "7", "task_reasoning"),
        Demonstration(TEXT, "", "7", "task_reasoning"),
        Demonstration(talked, "", "Bye!", "conversation"),
        *direct_audio([heard, TEXT]),
    ]
    assert [(d.question.id, d.reasoning, d.reply, d.source) for d in items[3:]] == [("a1", "", "dog", "audio_direct")]
    write_demonstrations(tmp_path / "all.jsonl", items)
    assert read_demonstrations(tmp_path / "all.jsonl") == items
    written = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert written[3]["question"]["audio"][0]["path"] == "clips/a.wav"


def test_all_bad_lines_are_named_at_once(tmp_path: Path) -> None:
    question = json.loads(TEXT.to_json())
    good = {"question": question, "reasoning": "", "reply": "7", "source": "mine"}
    lines = [
        good,
        good | {"replay": "7"},
        {"question": question},
        good | {"question": question | {"answer_kind": "guess"}},
        good | {"reply": "7<|EOT|>"},
        good | {"question": question | {"id": "t2", "audio": [{"path": "no.wav"}]}},
        good | {"question": question | {"prompt": "3 + 5?"}},
        good | {"reasoning": 7},
    ]
    path = tmp_path / "bad.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + "{\n")
    with pytest.raises(DataError) as caught:
        read_demonstrations(path)
    told: dict[int, str] = {}
    for problem in caught.value.problems:
        told[problem.line] = told.get(problem.line, "") + problem.message
    assert sorted(told) == [2, 3, 4, 5, 6, 7, 8, 9]
    assert "did you mean 'reply'" in told[2]
    assert "'reply' is missing" in told[3] and "'source' is missing" in told[3]
    assert told[4].startswith("question: answer_kind")
    assert "<|EOT|>" in told[5]
    assert "is missing" in told[6]
    assert "used already in line 1" in told[7]
    assert "must be text" in told[8]
    assert "not JSON" in told[9]


def test_a_file_without_lines_is_refused(tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text("\n")
    with pytest.raises(DataError, match="holds no demonstrations"):
        read_demonstrations(tmp_path / "none.jsonl")

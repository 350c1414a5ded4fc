"""Reading questions: every format that is promised is read, every fault is named by file and line, all at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from orchestrator.datasets import DataError, load_questions, write_questions

RATE = 16_000


def sound(seconds: float = 1.0, rate: int = RATE, channels: int = 1) -> np.ndarray:
    time = np.arange(int(seconds * rate)) / rate
    wave = 0.3 * np.sin(2 * np.pi * 440 * time)
    return np.stack([wave] * channels, axis=1) if channels > 1 else wave


def record(number: int = 0, **changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "id": f"q{number}",
        "prompt": "Which note is higher?",
        "answer": "first",
        "answer_kind": "choice",
        "choices": ["first", "second"],
    }
    return base | changes


def write(path: Path, records: list[Any]) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return path


def problems(path: Path) -> list[tuple[int, str]]:
    with pytest.raises(DataError) as caught:
        load_questions(path)
    assert all(p.file == path for p in caught.value.problems)
    for problem in caught.value.problems:
        assert str(problem) in str(caught.value)
    return [(p.line, p.message) for p in caught.value.problems]


@pytest.mark.parametrize(
    ("name", "rate", "channels"),
    [("a.wav", 8000, 1), ("b.flac", 44_100, 2), ("c.ogg", 48_000, 1), ("d.mp3", 22_050, 2), ("e.wav", 16_000, 2)],
)
def test_any_format_rate_and_channel_count_is_read_with_digest_and_length(
    tmp_path: Path, name: str, rate: int, channels: int
) -> None:
    (tmp_path / "clips").mkdir()
    soundfile.write(tmp_path / "clips" / name, sound(1.5, rate, channels), rate)
    file = write(tmp_path / "data.jsonl", [record(audio=[{"path": f"clips/{name}"}])])
    (question,) = load_questions(file)
    (clip,) = question.audio
    assert Path(clip.path) == tmp_path / "clips" / name
    assert clip.seconds == pytest.approx(1.5, abs=0.12)
    assert len(clip.sha256) == 64


def test_a_clip_longer_than_the_encoder_window_is_accepted(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.flac", sound(41.0), RATE)
    (question,) = load_questions(write(tmp_path / "data.jsonl", [record(audio=[{"path": "long.flac"}])]))
    assert question.audio[0].seconds == pytest.approx(41.0)


def test_text_questions_and_blank_lines_are_fine(tmp_path: Path) -> None:
    number = record(1, answer="42", answer_kind="number", choices=[], tolerance=0.5, prompt="6 * 7?")
    exact = record(2, answer="Paris", answer_kind="exact", choices=[], prompt="Capital of France?")
    questions = load_questions(write(tmp_path / "data.jsonl", [number, "", exact]))
    assert [q.answer for q in questions] == ["42", "Paris"]
    assert not questions[0].is_audio


def test_what_is_written_is_read_back_with_relative_paths_in_the_file(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", sound(), RATE)
    questions = load_questions(
        write(tmp_path / "data.jsonl", [record(audio=[{"path": "a.wav"}], truth={"events": []})])
    )
    (tmp_path / "sub").mkdir()
    write_questions(tmp_path / "sub" / "copy.jsonl", questions)
    assert json.loads((tmp_path / "sub" / "copy.jsonl").read_text())["audio"][0]["path"] == "../a.wav"
    (again,) = load_questions(tmp_path / "sub" / "copy.jsonl")
    assert Path(again.audio[0].path).resolve() == tmp_path / "a.wav"


def test_all_faults_of_all_lines_are_reported_at_once(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "good.wav", sound(), RATE)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    (tmp_path / "noise.mp3").write_bytes(b"this is no recording" * 50)
    good = {"path": "good.wav"}
    found = problems(
        write(
            tmp_path / "data.jsonl",
            [
                record(1, audio=[good]),
                "{not json",
                record(3, audio=[{"path": "nowhere.wav"}]),
                record(4, audio=[{"path": "empty.wav"}]),
                record(5, audio=[{"path": "silent.wav"}]),
                record(6, audio=[{"path": "noise.mp3"}]),
                record(7, promt="?", answer="third"),
                record(1, audio=[good]),
                record(9, answer_kind="number", answer="many", choices=[]),
                "[1, 2]",
                record(11, audio=[good | {"sha256": "0" * 64}]),
                record(12, audio=[good | {"seconds": 9.0}]),
            ],
        )
    )
    expected = {
        2: "not JSON",
        3: "is missing",
        4: "is empty",
        5: "is silent",
        6: "cannot be decoded",
        8: "used already in line 1",
        9: "not a number",
        10: "one JSON object",
        11: "has changed",
        12: "the line says 9.00 s",
    }
    for line, message in expected.items():
        assert any(at == line and message in text for at, text in found), (line, found)
    of_seven = [text for at, text in found if at == 7]
    assert any("unknown field 'promt'; did you mean 'prompt'" in text for text in of_seven)
    assert any("answer 'third' is not among the choices" in text for text in of_seven)
    assert len(found) == len(expected) + 2


def test_silence_where_the_truth_claims_a_sound_is_named(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.concatenate([sound(1.0), np.zeros(RATE)]), RATE)
    heard = {"kind": "dog", "start_s": 0.2, "end_s": 0.9, "pitch_hz": None, "level_db": 0.0}
    silent, beyond = heard | {"start_s": 1.2, "end_s": 1.8}, heard | {"start_s": 3.0, "end_s": 3.2}
    audio = [{"path": "a.wav"}]
    file = write(
        tmp_path / "data.jsonl",
        [record(i, audio=audio, truth={"events": [e]}) for i, e in enumerate((heard, silent, beyond))],
    )
    (second, third) = problems(file)
    assert second[0] == 2 and "silent from 1.20 to 1.80 s, where truth claims dog" in second[1]
    assert third[0] == 3 and "after the end" in third[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"truth": {"events": {}}}, "'events' of 'truth' must be a list"),
        ({"truth": {"events": ["dog"]}}, "event 1 of 'truth' must be an object with 'kind', 'start_s' and 'end_s'"),
        ({"truth": {"events": [{"start_s": 0.1, "end_s": 1}]}}, "event 1 of 'truth': 'kind' must be text"),
        ({"truth": {"events": [{"kind": "dog", "start_s": 0.1}]}}, "event 1 of 'truth': 'end_s' must be a number"),
        (
            {"truth": {"events": [{"kind": "dog", "start_s": 0, "end_s": 1, "pitch_hz": "high"}]}},
            "event 1 of 'truth': 'pitch_hz' must be a number or null",
        ),
        ({"choices": ["first"]}, "two choices or more"),
        ({"choices": ["first", "first"]}, "two choices are the same"),
        ({"answer_kind": "guess"}, "is none of choice, exact, number"),
        ({"id": ""}, "field 'id' is empty"),
        ({"prompt": 3}, "field 'prompt' must be text"),
        ({"tolerance": -1}, "'tolerance' must be a number of 0 or more"),
        ({"audio": "a.wav"}, "'audio' must be a list"),
        ({"audio": [{"file": "a.wav"}]}, "with a 'path'"),
        ({"audio": [{"path": "a.wav", "len": 1}]}, "clip 1: unknown field 'len'"),
        ({"truth": []}, "'truth' must be an object"),
    ],
)
def test_a_faulty_field_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    ((line, text), *_) = problems(write(tmp_path / "data.jsonl", [record(**changes)]))
    assert line == 1
    assert message in text


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    incomplete = {k: v for k, v in record().items() if k != "answer"}
    assert problems(write(tmp_path / "data.jsonl", [incomplete])) == [(1, "field 'answer' is missing")]


def test_missing_empty_and_undecodable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        load_questions(tmp_path / "none.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'{"id": "\xe9"}\n')
    with pytest.raises(DataError, match="UTF-8"):
        load_questions(tmp_path / "latin.jsonl")
    assert problems(write(tmp_path / "empty.jsonl", [])) == [(0, "holds no questions")]


def test_a_long_list_of_problems_is_cut_in_the_message_but_kept_in_the_error(tmp_path: Path) -> None:
    file = write(tmp_path / "data.jsonl", [record(i, answer="third") for i in range(150)])
    with pytest.raises(DataError, match="and 50 more") as caught:
        load_questions(file)
    assert len(caught.value.problems) == 150


def test_conversation_rubric_and_data_set_are_read_and_written(tmp_path: Path) -> None:
    turns = [{"role": "human", "text": "Hello"}, {"role": "assistant", "text": "Hi"}]
    file = write(tmp_path / "data.jsonl", [record(history=turns, rubric="Is it kind?", dataset="chats")])
    (question,) = load_questions(file)
    assert [(turn.role, turn.text) for turn in question.history] == [("human", "Hello"), ("assistant", "Hi")]
    assert (question.rubric, question.dataset) == ("Is it kind?", "chats")
    write_questions(tmp_path / "again.jsonl", [question])
    assert load_questions(tmp_path / "again.jsonl") == [question]


def test_a_turn_of_another_role_or_without_text_is_named(tmp_path: Path) -> None:
    turns = [{"role": "system", "text": "Be brief."}, {"role": "human"}]
    found = problems(write(tmp_path / "data.jsonl", [record(history=turns)]))
    assert [line for line, _ in found] == [1, 1]
    assert "role 'system' is none of human, assistant" in found[0][1]
    assert "turn 2 of 'history'" in found[1][1]

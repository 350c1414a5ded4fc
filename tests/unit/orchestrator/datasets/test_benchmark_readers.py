"""Each benchmark's published format becomes questions; whatever is wrong with a file is named record by record."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from orchestrator.datasets import DataError
from orchestrator.datasets.benchmarks import BENCHMARKS, JudgeAccess, load_benchmark
from rewards import RewardSpec, resolve_reward
from rollout import AnswerKind, Question

RATE = 16_000
Record = dict[str, Any]


def tone(hertz: float = 440.0, seconds: float = 0.5) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * hertz * np.arange(int(RATE * seconds)) / RATE)


def wav_bytes(hertz: float = 440.0) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(hertz), RATE, format="WAV")
    return buffer.getvalue()


def clip(path: Path, hertz: float = 440.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(hertz), RATE)


def jsonl(path: Path, records: Sequence[Record]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def parquet(path: Path, records: Sequence[Record]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(records)), path)


def mmau_record(number: int = 1, **over: Any) -> Record:
    return {
        "id": f"item-{number}",
        "audio_id": f"./test-mini-audios/item-{number}.wav",
        "question": "What makes the tone?",
        "choices": ["A whistle", "A drum", "A door"],
        "answer": "A whistle",
        "dataset": "own",
        "task": "sound",
        "split": "test-mini",
        "category": "Reasoning",
        "sub-category": "Acoustic Source Inference",
        "difficulty": "easy",
    } | over


def mmau(folder: Path, records: Sequence[Record]) -> Path:
    for number in range(1, len(records) + 1):
        clip(folder / f"test-mini-audios/item-{number}.wav", 200.0 + 50 * number)
    (folder / "mmau-test-mini.json").write_text(json.dumps(list(records)))
    return folder


def load(name: str, path: Path) -> list[Question]:
    return load_benchmark(name, path, path.parent / "cache")


def test_mmau_json_with_clips_beside_it(tmp_path: Path) -> None:
    found = load("mmau", mmau(tmp_path / "mmau", [mmau_record(1), mmau_record(2, answer="A drum")]))
    assert [q.id for q in found] == ["item-1", "item-2"]
    first = found[0]
    assert (first.answer, first.choices) == ("A whistle", ("A whistle", "A drum", "A door"))
    assert (first.domain, first.task, first.split, first.source) == (
        "sound",
        "Acoustic Source Inference",
        "test-mini",
        "own",
    )
    assert first.answer_kind is AnswerKind.CHOICE and first.dataset == "mmau"
    assert Path(first.audio[0].path).is_file() and first.audio[0].seconds == pytest.approx(0.5)
    assert first.audio[0].sha256 != found[1].audio[0].sha256


def test_an_option_that_is_published_twice_is_kept_and_a_blank_one_is_not_shown(tmp_path: Path) -> None:
    (one,) = load("mmau", mmau(tmp_path / "mmau", [mmau_record(1, choices=["A whistle", "A drum", " ", "A drum"])]))
    assert one.choices == ("A whistle", "A drum", "A drum")


def test_mmau_parquet_with_embedded_clips_is_written_out_once_by_content(tmp_path: Path) -> None:
    body = wav_bytes()
    records = [
        mmau_record(n, choices=str(["A whistle", "A drum"]), audio={"bytes": body, "path": "x.wav"}) for n in (1, 2)
    ]
    for record in records:
        del record["audio_id"]
    parquet(tmp_path / "mmau/data/test_mini-00000-of-00001.parquet", records)
    found = load("mmau", tmp_path / "mmau")
    assert found[0].choices == ("A whistle", "A drum")
    assert found[0].audio == found[1].audio
    assert [path.read_bytes() for path in (tmp_path / "cache").iterdir()] == [body]


def test_mmar_meta_file(tmp_path: Path) -> None:
    clip(tmp_path / "mmar/audio/a.wav")
    record = {
        "id": "a", "audio_path": "./audio/a.wav", "question": "Which key?", "choices": ["C major", "A minor"],
        "answer": "A minor", "modality": "music", "category": "Signal Layer", "sub-category": "Key", "language": "en",
        "source": "own", "url": "", "timestamp": "00:01",
    }  # fmt: skip
    (tmp_path / "mmar/MMAR-meta.json").write_text(json.dumps([record]))
    jsonl(tmp_path / "newer/MMAR-meta.jsonl", [record | {"audio_path": str(tmp_path / "mmar/audio/a.wav")}])
    (one,) = load("mmar", tmp_path / "mmar")
    assert load("mmar", tmp_path / "newer") == [one]
    assert (one.domain, one.task, one.answer) == ("music", "Signal Layer", "A minor")


def mmsu_record(**over: Any) -> Record:
    return {
        "id": "pitch_1", "task_name": "pitch_comparison", "audio_path": "./audio/pitch_1.wav", "question": "Which is higher?",
        "choice_a": "first", "choice_b": "second", "choice_c": None, "choice_d": None, "answer_gt": "second",
        "category": "Perception", "sub-category": "Paralinguistics", "sub-sub-category": "Speaker Traits",
    } | over  # fmt: skip


def test_mmsu_drops_padding_and_finds_clips_beside_the_folder_of_its_file(tmp_path: Path) -> None:
    clip(tmp_path / "mmsu/audio/pitch_1.wav")
    other = mmsu_record(
        id="stress_1", **{"sub-category": "Linguistics", "sub-sub-category": "Phonology", "choice_c": "neither"}
    )
    jsonl(tmp_path / "mmsu/question/mmsu.jsonl", [mmsu_record(), other])
    one, two = load("mmsu", tmp_path / "mmsu")
    assert one.choices == ("first", "second") and two.choices == ("first", "second", "neither")
    assert (one.domain, two.domain) == ("Perception Paralinguistics", "Perception Phonology")
    assert one.task == "pitch_comparison"


def test_mmsu_with_options_by_letter(tmp_path: Path) -> None:
    clip(tmp_path / "mmsu/audio/pitch_1.wav")
    record = mmsu_record(choices={"B": "second", "A": "first", "C": None}, answer="second")
    for name in ("choice_a", "choice_b", "choice_c", "choice_d", "answer_gt"):
        del record[name]
    jsonl(tmp_path / "mmsu/mmsu.jsonl", [record])
    (one,) = load("mmsu", tmp_path / "mmsu")
    assert one.choices == ("first", "second") and one.answer == "second"


def test_big_bench_audio_metadata(tmp_path: Path) -> None:
    rows = [("formal_fallacies", "invalid"), ("navigate", "Yes"), ("object_counting", "12"), ("web_of_lies", "No")]
    for number in range(len(rows)):
        clip(tmp_path / f"bba/data/question_{number}.wav")
    records = [
        {"id": n, "category": c, "official_answer": a, "file_name": f"data/question_{n}.wav"}
        for n, (c, a) in enumerate(rows)
    ]
    jsonl(tmp_path / "bba/metadata.jsonl", records)
    found = load("big_bench_audio", tmp_path / "bba")
    assert [(q.task, q.answer) for q in found] == rows
    assert [q.answer_kind for q in found] == [AnswerKind.EXACT, AnswerKind.EXACT, AnswerKind.NUMBER, AnswerKind.EXACT]
    assert len({q.id for q in found}) == 4


def test_spoken_mqa_takes_split_from_the_file_and_the_number_behind_the_mark(tmp_path: Path) -> None:
    def row(answer: str) -> Record:
        return {
            "context": {"bytes": wav_bytes(), "path": None},
            "context_transcript": "Four plus five.",
            "instruction": {"text": "Please solve it.", "audio": None},
            "answer": {"text": answer, "audio": None},
        }

    parquet(tmp_path / "smqa/data/multi_step_reasoning-00000-of-00001.parquet", [row("He has 4 + 5 = 9.\n#### 1,009")])
    parquet(tmp_path / "smqa/data/short_digit-00000-of-00001.parquet", [row("9"), row("10")])
    found = load("spoken_mqa", tmp_path / "smqa")
    assert [(q.task, q.answer) for q in found] == [
        ("multi_step_reasoning", "1009"),
        ("short_digit", "9"),
        ("short_digit", "10"),
    ]
    assert found[0].prompt == "Please solve it."
    assert len({q.id for q in found}) == 3


def test_wild_speech_has_a_rubric_with_the_querys_own_points_and_no_reference(tmp_path: Path) -> None:
    row = {
        "audio": {"bytes": wav_bytes(), "path": None},
        "user_query": "Name a short walk near a lake.",
        "taskType": "Solution Request",
        "checklist": "- names one walk",
        "conversation_hash": "abc",
        "modification_type": "stuttering",
        "additional_info": None,
    }
    parquet(tmp_path / "wild/data/train-00000-of-00001.parquet", [row])
    (one,) = load("wild_speech", tmp_path / "wild")
    assert "Name a short walk" in one.rubric and "- names one walk" in one.rubric
    assert "Name a short walk" not in one.prompt, "the model must hear the request, not read it"
    assert (one.task, one.domain, one.answer) == ("Solution Request", "stuttering", "")


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name != "wild_speech"])
def test_a_benchmark_says_which_rules_score_it(name: str) -> None:
    (term,) = BENCHMARKS[name].scoring(None)
    assert (term.name, term.parameters) == ("answer", {"rules": name})
    resolve_reward(RewardSpec((term,), 2.0, 512, 1))


@pytest.mark.parametrize("name", ["wild_speech", "big_bench_audio"])
def test_a_judged_benchmark_asks_the_given_judge(name: str) -> None:
    (term,) = BENCHMARKS[name].scoring(JudgeAccess("http://127.0.0.1:9/v1", "judge", ""))
    assert term.name == "judge" and max(term.parameters["levels"].values()) == 1.0
    resolve_reward(RewardSpec((term,), 2.0, 512, 1))


def test_wild_speech_without_a_judge_is_refused() -> None:
    with pytest.raises(ValueError, match="judge"):
        BENCHMARKS["wild_speech"].scoring(None)


BAD: dict[str, tuple[Record | None, str]] = {
    "no question": (mmau_record(2, question=None), "'question' is missing"),
    "answer not among the options": (mmau_record(2, answer="A bell"), "none of the options"),
    "one option": (mmau_record(2, choices=["A whistle"]), "two options or more"),
    "options that are no list": (mmau_record(2, choices=7), "list of options"),
    "an id used twice": (mmau_record(2, id="item-1"), "used already in record 1"),
    "a clip that is not there": (mmau_record(2, audio_id="./test-mini-audios/gone.wav"), "gone.wav is not there"),
    "no clip": (mmau_record(2, audio_id=None), "has no recording"),
    "no record": (None, "must be a JSON object"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_record_is_named_with_its_number(case: str, tmp_path: Path) -> None:
    record, message = BAD[case]
    with pytest.raises(DataError, match=message) as caught:
        load("mmau", mmau(tmp_path / "mmau", [mmau_record(1), record]))  # type: ignore[list-item]
    assert all("record 2" in str(problem) for problem in caught.value.problems)


def test_every_bad_record_is_named_at_once(tmp_path: Path) -> None:
    records = [mmau_record(1, answer="x"), mmau_record(2), mmau_record(3, question="", choices=[])]
    with pytest.raises(DataError, match="3 problems") as caught:
        load("mmau", mmau(tmp_path / "mmau", records))
    assert sum("record 1" in str(p) for p in caught.value.problems) == 1
    assert sum("record 3" in str(p) for p in caught.value.problems) == 2


def broken_json(folder: Path) -> None:
    (folder / "mmau-test-mini.json").write_text('[{"id": ')


def undecodable_clip(folder: Path) -> None:
    (folder / "test-mini-audios/item-1.wav").write_bytes(b"RIFF and no more")


def broken_parquet(folder: Path) -> None:
    (folder / "mmau-test-mini.json").unlink()
    (folder / "half.parquet").write_bytes(b"PAR1 and no more")


def empty(folder: Path) -> None:
    (folder / "mmau-test-mini.json").write_text("[]")


def nothing(folder: Path) -> None:
    (folder / "mmau-test-mini.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (broken_json, "is not JSON"),
        (undecodable_clip, "cannot be decoded"),
        (broken_parquet, "can't be read"),
        (empty, "holds no records"),
        (nothing, "holds none of mmau-test-mini.json"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(spoil: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    folder = mmau(tmp_path / "mmau", [mmau_record(1)])
    spoil(folder)
    with pytest.raises(DataError, match=message):
        load("mmau", folder)


def test_a_line_that_is_no_json_is_named_by_its_line(tmp_path: Path) -> None:
    clip(tmp_path / "mmsu/audio/pitch_1.wav")
    jsonl(tmp_path / "mmsu/mmsu.jsonl", [mmsu_record()])
    with (tmp_path / "mmsu/mmsu.jsonl").open("a") as file:
        file.write("{broken\n")
    with pytest.raises(DataError, match=r"mmsu.jsonl:2: not JSON"):
        load("mmsu", tmp_path / "mmsu")


def test_an_unknown_benchmark_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are mmau, mmar"):
        load("mmlu", tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        load("mmau", tmp_path / "gone")

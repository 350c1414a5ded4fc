"""The bank without any package (words by espeak-ng, plain tones): levels, both sides of the split, same bytes, clear errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from orchestrator.datasets.acoustic_qa import recipe
from orchestrator.datasets.acoustic_qa.bank import REFERENCE_RMS, Bank, BankError, bank_for, build_bank, load_bank
from orchestrator.datasets.acoustic_qa.cuts import PAUSE_KEPT_S, trim
from orchestrator.datasets.acoustic_qa.library import RATE, LibraryError, without_id3
from orchestrator.datasets.acoustic_qa.sources import PACKAGES, Fetched
from orchestrator.datasets.acoustic_qa.voices import ToneShape, Utterance, VoiceError, espeak, flite, tone

NOTHING = Fetched({}, {p.name: "not fetched in this test" for p in PACKAGES})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("bank") / "bank"
    build_bank(NOTHING, place)
    return place


@pytest.fixture(scope="module")
def bank(folder: Path) -> Bank:
    return load_bank(folder)


def test_words_and_tones_are_there_on_both_sides(bank: Bank) -> None:
    kinds = {(r.kind, r.split) for r in bank.recordings}
    for kind in (*recipe.WORDS, *recipe.TONES):
        assert {(kind, "train"), (kind, "held_out")} <= kinds
    voices = {r.id.split("/")[1] for r in bank.recordings if r.domain == "speech" and r.split == "train"}
    assert len(voices) == len(recipe.ESPEAK_VOICES["train"])


def test_every_wave_has_the_reference_level_and_its_catalogued_length(bank: Bank) -> None:
    for recording in bank.recordings:
        wave = bank.waves[recording.id]
        assert len(wave) == round(recording.seconds * RATE)
        assert float(np.sqrt(np.mean(wave.astype(np.float64) ** 2))) == pytest.approx(REFERENCE_RMS, rel=0.01)


def test_tones_sound_at_the_note_they_are_catalogued_with(bank: Bank) -> None:
    for recording in bank.recordings:
        if recording.kind == "sine" and recording.midi in (48, 69, 84):
            spectrum = np.abs(np.fft.rfft(bank.waves[recording.id], RATE * 4))
            assert spectrum.argmax() / 4 == pytest.approx(440.0 * 2 ** ((recording.midi - 69) / 12), rel=0.01)


def test_what_is_missing_is_said_by_domain(bank: Bank) -> None:
    text = "\n".join(bank.thinner)
    assert "music: no fluidr3mono-gm-soundfont, freepats" in text
    assert "sound: no gcompris-qt-data" in text


def test_a_second_build_gives_the_same_bytes(bank: Bank, tmp_path: Path) -> None:
    assert build_bank(NOTHING, tmp_path / "again").digest == bank.digest


def test_a_bank_is_built_once_for_the_same_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = bank_for(NOTHING, tmp_path)
    (place,) = (tmp_path / "banks").iterdir()
    written = (place / "waves.npy").stat().st_mtime_ns
    assert bank_for(NOTHING, tmp_path).digest == first.digest
    assert (place / "waves.npy").stat().st_mtime_ns == written


def test_a_damaged_bank_says_so(folder: Path, tmp_path: Path) -> None:
    lines = (folder / "catalogue.jsonl").read_text().splitlines()
    (tmp_path / "catalogue.jsonl").write_text("\n".join(lines[:-1]))
    (tmp_path / "waves.npy").write_bytes((folder / "waves.npy").read_bytes())
    with pytest.raises(BankError, match="is damaged"):
        load_bank(tmp_path)
    (tmp_path / "catalogue.jsonl").write_text(json.dumps({"bank_format": 99}))
    with pytest.raises(BankError, match="another format"):
        load_bank(tmp_path)
    with pytest.raises(BankError, match="no bank can be read"):
        load_bank(tmp_path / "nowhere")


def test_the_recipe_holds_recordings_apart() -> None:
    for kind, (train, held_out) in recipe.SOUNDS.items():
        assert len(train) >= 2 and held_out, kind
        assert not set(train) & set(held_out), kind
    for table in (recipe.ESPEAK_VOICES, recipe.SOUNDFONTS, recipe.DRUMS, recipe.SPEAKERS):
        assert not set(table["train"]) & set(table["held_out"])
    train_voices = {name.split("/")[0] for name in recipe.FLITE_VOICES["train"]}
    assert not train_voices & set(recipe.FLITE_VOICES["held_out"])


def test_every_place_in_the_recipe_is_in_a_package_that_is_fetched() -> None:
    names = {p.name for p in PACKAGES}
    places = [place for sides in recipe.SOUNDS.values() for side in sides for place in side]
    places += [place for side in recipe.DRUMS.values() for place in side]
    assert {place.split(":", 1)[0] for place in places} <= names
    assert {name for side in recipe.SOUNDFONTS.values() for name in side} <= names


def test_speech_is_the_same_every_time_and_an_unknown_voice_says_nothing() -> None:
    jobs = [
        Utterance("en-us", "seven", 150, 50),
        Utterance("xx-nowhere", "seven", 150, 50),
        Utterance("en-us+f4", "one", 150, 70),
    ]
    (first, unknown, last), rate = espeak(jobs)
    assert len(first) > 0.2 * rate and len(last) > 0.1 * rate and len(unknown) == 0
    again, _ = espeak(jobs)
    assert all(np.array_equal(one, two) for one, two in zip((first, unknown, last), again, strict=True))


def test_a_synthesiser_that_cannot_start_is_a_voice_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "no-python"))
    with pytest.raises(VoiceError, match="espeak-ng cannot run"):
        espeak([Utterance("en-us", "seven", 150, 50)])
    with pytest.raises(VoiceError, match="flite cannot run"):
        flite(tmp_path / "no-flite", [], "seven", voice="slt", stretch=1.0, mean_f0_hz=0)


def test_trimming_removes_silence_at_the_ends_and_shortens_it_inside() -> None:
    beep = tone("sine", 440.0, RATE, ToneShape(0.5, 0.005, 0.0, 0.0))
    gap = np.zeros(RATE, np.float32)
    whole = np.concatenate([gap, beep, gap, beep, gap])
    assert len(trim(whole)) == pytest.approx(2.0 * RATE, abs=0.05 * RATE)
    assert len(trim(whole, keep_pauses=False)) == pytest.approx((1.0 + PAUSE_KEPT_S) * RATE, abs=0.06 * RATE)
    with pytest.raises(LibraryError, match="silent"):
        trim(gap)


def test_a_square_tone_has_odd_harmonics_only_and_nothing_above_half_the_rate() -> None:
    spectrum = np.abs(np.fft.rfft(tone("square", 1000.0, RATE, ToneShape(1.0, 0.01, 0.0, 0.0))))
    assert spectrum[3000] > 0.2 * spectrum[1000]
    assert spectrum[2000] < 0.01 * spectrum[1000]


def test_an_mp3_tag_is_skipped_and_other_bytes_are_left_alone() -> None:
    frame = b"\xff\xfb\x90\x00music"
    assert without_id3(b"ID3\x03\x00\x00\x00\x00\x00\x02xx" + frame) == frame
    assert without_id3(b"ID3\x03\x00\x00\x00\x00\x00\x00" + bytes(30) + frame) == frame
    assert without_id3(b"RIFFxxxx") == b"RIFFxxxx"

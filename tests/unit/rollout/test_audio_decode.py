"""Decoding: formats, rates and channels become mono 16 kHz; bad files are named."""

import hashlib

import numpy as np
import pytest
import soundfile

from rollout import AudioError, load_audio
from rollout.audio import sha256_of_file


def tone(rate, seconds=0.5, hz=440.0):
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_formats_and_rates_keep_length_and_pitch(tmp_path, extension, rate):
    path = tmp_path / f"tone.{extension}"
    soundfile.write(path, tone(rate), rate)
    wave = load_audio(path)
    assert wave.dtype == np.float32 and wave.ndim == 1
    assert abs(len(wave) / 16000 - 0.5) < 0.1
    spectrum = np.abs(np.fft.rfft(wave))
    assert abs(np.argmax(spectrum) * 16000 / len(wave) - 440) < 5


def test_channels_are_averaged(tmp_path):
    left = tone(16000)
    soundfile.write(tmp_path / "stereo.wav", np.stack([left, np.zeros_like(left)], axis=1), 16000, subtype="FLOAT")
    assert np.allclose(load_audio(tmp_path / "stereo.wav"), left / 2, atol=1e-6)


def test_missing_unreadable_empty_short_and_not_finite_files_are_named(tmp_path):
    (tmp_path / "text.wav").write_text("this is no audio")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    soundfile.write(tmp_path / "short.wav", np.zeros(800), 16000)
    broken = tone(16000)
    broken[100] = np.nan
    soundfile.write(tmp_path / "nan.wav", broken, 16000, subtype="FLOAT")
    reasons = {"gone": "missing", "text": "cannot be decoded", "empty": "empty", "short": "lasts", "nan": "not finite"}
    for name, reason in reasons.items():
        with pytest.raises(AudioError, match=rf"{name}\.wav.*{reason}"):
            load_audio(tmp_path / f"{name}.wav")


def test_truncated_file_is_named(tmp_path):
    soundfile.write(tmp_path / "cut.flac", tone(16000), 16000)
    whole = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[:20])
    with pytest.raises(AudioError, match=r"cut\.flac"):
        load_audio(tmp_path / "cut.flac")


def test_digest_is_of_the_files_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of_file(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
    with pytest.raises(AudioError, match="cannot be read"):
        sha256_of_file(tmp_path / "b")

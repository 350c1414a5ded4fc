"""Synthesises words and notes: espeak-ng and flite (child processes), SoundFonts (tinysoundfont), plain tones (numpy).

Neighbours: `bank` asks for every word, note and tone of the recipe.
Invariants: deterministic; float32 mono with the sample rate beside it; an engine that cannot run is a VoiceError saying why.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from orchestrator.datasets.schema import DataError

FLITE_TIMEOUT_S = 30
ESPEAK_TIMEOUT_S = 120  # all words of all voices take 2 s
SOUNDFONT_GAIN_DB = -10.0  # keeps loud presets below full scale
VELOCITY = 100


class VoiceError(DataError):
    """A synthesiser cannot be used; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """What espeak-ng shall say. pitch: 0..99."""

    voice: str
    text: str
    words_per_minute: int
    pitch: int


def espeak(utterances: Sequence[Utterance]) -> tuple[list[np.ndarray], int]:
    """Says them with espeak-ng, in order: float32 [L] each (empty for an unknown voice), and their sample rate.

    In a process of its own: the library keeps state, and the second use in a process would sound a little different from the first.
    """
    jobs = json.dumps([[u.voice, u.text, u.words_per_minute, u.pitch] for u in utterances])
    command = [sys.executable, "-m", "orchestrator.datasets.acoustic_qa.espeak"]
    try:
        done = subprocess.run(command, input=jobs.encode(), capture_output=True, timeout=ESPEAK_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VoiceError(f"espeak-ng cannot run: {error}") from error
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise VoiceError(f"espeak-ng ended with status {done.returncode}: {reason[-1]}")
    with np.load(io.BytesIO(done.stdout)) as said:
        return [said[f"said_{number}"] for number in range(len(utterances))], int(said["rate"])


def flite(
    binary: Path, libraries: Iterable[Path], text: str, *, voice: str, stretch: float, mean_f0_hz: int
) -> tuple[np.ndarray, int]:
    """Says a text with flite: float32 [L] and its sample rate. mean_f0_hz 0 keeps the voice's own pitch."""
    command = [str(binary), "-voice", voice, "--setf", f"duration_stretch={stretch}"]
    if mean_f0_hz:
        command += ["--setf", f"int_f0_target_mean={mean_f0_hz}"]
    environment = {"LD_LIBRARY_PATH": ":".join(str(folder) for folder in libraries), "PATH": "/usr/bin:/bin"}
    try:
        done = subprocess.run(
            [*command, "-t", text, "-o", "/dev/stdout"],
            capture_output=True,
            env=environment,
            timeout=FLITE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VoiceError(f"flite cannot run: {error}") from error
    if done.returncode or not done.stdout:
        raise VoiceError(
            f"flite ended with status {done.returncode}: {done.stderr.decode(errors='replace').strip()[:200]}"
        )
    samples, rate = soundfile.read(io.BytesIO(done.stdout), dtype="float32")
    return samples, rate


class SoundFont:
    """A SoundFont file rendered by tinysoundfont."""

    def __init__(self, path: Path, rate: int) -> None:
        try:
            from tinysoundfont import _tinysoundfont as engine
        except ImportError as error:
            raise VoiceError(f"SoundFonts cannot be rendered: {error}; install tinysoundfont") from error
        try:
            self._font = engine.SoundFont(str(path))
        except (RuntimeError, OSError) as error:
            raise VoiceError(f"{path} cannot be read as a SoundFont: {error}") from error
        self._font.set_output(engine.OutputMode.Mono, rate, SOUNDFONT_GAIN_DB)
        self.path, self.rate = path, rate

    def notes(self, program: int, notes: Iterable[int], held_s: float, release_s: float) -> Iterator[np.ndarray]:
        """Notes of one General MIDI program: float32 [(held_s + release_s) * rate] each."""
        preset = self._font.get_preset_index(0, program)
        if preset < 0:
            raise VoiceError(f"{self.path.name} has no program {program}")
        held = int(held_s * self.rate)
        for note in notes:
            self._font.reset()
            buffer = memoryview(bytearray(4 * int((held_s + release_s) * self.rate)))
            self._font.note_on(preset, note, VELOCITY / 127)
            self._font.render(buffer[: 4 * held])
            self._font.note_off(preset, note)
            self._font.render(buffer[4 * held :])
            yield np.frombuffer(buffer, np.float32)


@dataclass(frozen=True, slots=True)
class ToneShape:
    """decay_db: fall over its length; phase: of the harmonics against each other, radians."""

    seconds: float
    attack_s: float
    decay_db: float
    phase: float


def tone(kind: str, frequency_hz: float, rate: int, shape: ToneShape) -> np.ndarray:
    """A plain tone without aliasing: float32 [L]. kind: sine, square or sawtooth."""
    time_L = np.arange(int(shape.seconds * rate)) / rate
    top = 1 if kind == "sine" else int(0.45 * rate / frequency_hz)
    step = 2 if kind == "square" else 1
    wave = np.zeros_like(time_L)
    for harmonic in range(1, top + 1, step):
        wave += np.sin(2 * np.pi * harmonic * frequency_hz * time_L + harmonic * shape.phase) / harmonic
    envelope = np.minimum(1.0, time_L / shape.attack_s) * 10 ** (-shape.decay_db / 20 * time_L / shape.seconds)
    return (0.3 * wave * envelope).astype(np.float32)

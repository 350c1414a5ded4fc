"""Synthesises words and notes: espeak-ng (in process), flite (its binary), SoundFonts (tinysoundfont), plain tones (numpy).

Neighbours: `bank` asks for every word, note and tone of the recipe.
Invariants: deterministic; float32 mono with the sample rate beside it; an engine that cannot run is a VoiceError saying why.
"""

from __future__ import annotations

import ctypes
import io
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from orchestrator.datasets.schema import DataError

FLITE_TIMEOUT_S = 30
SOUNDFONT_GAIN_DB = -10.0  # keeps loud presets below full scale
VELOCITY = 100
_RETRIEVE_AUDIO, _DONT_EXIT = 1, 0x8000
_RATE, _PITCH = 1, 3  # espeak_PARAMETER
_UTF8 = 1
_SYNTH_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class VoiceError(DataError):
    """A synthesiser cannot be used; the message says which and why."""


class Espeak:
    """The espeak-ng library of the espeakng-loader wheel. One instance a process (the library keeps global state)."""

    def __init__(self) -> None:
        try:
            import espeakng_loader

            self._library = ctypes.CDLL(espeakng_loader.get_library_path())
            folder = Path(espeakng_loader.get_data_path()).parent
        except (ImportError, OSError) as error:
            raise VoiceError(f"espeak-ng cannot be loaded: {error}; install espeakng-loader") from error
        self.rate = int(self._library.espeak_Initialize(_RETRIEVE_AUDIO, 0, str(folder).encode(), _DONT_EXIT))
        if self.rate <= 0:
            raise VoiceError(f"espeak-ng does not start with its data in {folder}")
        self._heard: list[np.ndarray] = []
        self._callback = _SYNTH_CALLBACK(self._receive)  # kept: the library calls it as long as it lives
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples: ctypes._Pointer[ctypes.c_short], count: int, _events: int | None) -> int:
        if count > 0:
            self._heard.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def say(self, voice: str, text: str, words_per_minute: int, pitch: int) -> np.ndarray:
        """float32 [L] at `self.rate`. Raises VoiceError for an unknown voice."""
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise VoiceError(f"espeak-ng has no voice {voice!r}")
        self._library.espeak_SetParameter(_RATE, words_per_minute, 0)
        self._library.espeak_SetParameter(_PITCH, pitch, 0)
        self._heard.clear()
        spoken = text.encode() + b"\0"
        self._library.espeak_Synth(spoken, ctypes.c_size_t(len(spoken)), 0, 0, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        if not self._heard:
            raise VoiceError(f"espeak-ng said nothing for {text!r} with voice {voice!r}")
        return (np.concatenate(self._heard) / 32768.0).astype(np.float32)


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

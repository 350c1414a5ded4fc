"""A child process that speaks with the espeak-ng library of the espeakng-loader wheel.

Neighbours: `voices.espeak` starts it. Standard input: JSON list of [voice, text, words per minute, pitch]; standard output: an npz with
`rate` and `said_0`, `said_1`... (float32 [L], empty for an unknown voice).
Invariants: the library is started once and used in the given order, so the same input gives the same bytes.
"""

from __future__ import annotations

import ctypes
import io
import json
import sys
from pathlib import Path
from typing import Any

import espeakng_loader
import numpy as np

_RETRIEVE_AUDIO, _DONT_EXIT = 1, 0x8000
_RATE, _PITCH = 1, 3  # espeak_PARAMETER
_UTF8 = 1
_SYNTH_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Espeak:
    """The library, started. Raises OSError when it cannot be loaded or has no data."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        folder = Path(espeakng_loader.get_data_path()).parent
        self.rate = int(self._library.espeak_Initialize(_RETRIEVE_AUDIO, 0, str(folder).encode(), _DONT_EXIT))
        if self.rate <= 0:
            raise OSError(f"espeak-ng does not start with its data in {folder}")
        self._heard: list[np.ndarray] = []
        self._callback = _SYNTH_CALLBACK(self._receive)  # kept: the library calls it as long as it lives
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples: ctypes._Pointer[ctypes.c_short], count: int, _events: int | None) -> int:
        if count > 0:
            self._heard.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def say(self, voice: str, text: str, words_per_minute: int, pitch: int) -> np.ndarray:
        """float32 [L] at `self.rate`, empty for an unknown voice."""
        self._heard.clear()
        if not self._library.espeak_SetVoiceByName(voice.encode()):
            self._library.espeak_SetParameter(_RATE, words_per_minute, 0)
            self._library.espeak_SetParameter(_PITCH, pitch, 0)
            spoken = text.encode() + b"\0"
            self._library.espeak_Synth(spoken, ctypes.c_size_t(len(spoken)), 0, 0, 0, _UTF8, None, None)
            self._library.espeak_Synchronize()
        return (np.concatenate([np.zeros(0, np.int16), *self._heard]) / 32768.0).astype(np.float32)


def main() -> None:
    engine = Espeak()
    said: dict[str, Any] = {f"said_{n}": engine.say(*job) for n, job in enumerate(json.load(sys.stdin))}
    packed = io.BytesIO()
    np.savez(packed, rate=engine.rate, **said)
    sys.stdout.buffer.write(packed.getvalue())


if __name__ == "__main__":
    main()

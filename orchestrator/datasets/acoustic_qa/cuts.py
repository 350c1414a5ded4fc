"""Cuts every recording of the recipe: words, sounds, notes, tones, drum hits.

Neighbours: `recipe` says what serves what, `library` and `voices` give the sound, `bank` levels and stores the cuts.
Invariants: in the recipe's order; a sound that cannot be had is reported in `problems` and left out; silences inside long
recordings are shortened, so that any window of one holds sound.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orchestrator.datasets.acoustic_qa import recipe
from orchestrator.datasets.acoustic_qa.archives import ArchiveError
from orchestrator.datasets.acoustic_qa.library import RATE, Library, LibraryError, to_rate
from orchestrator.datasets.acoustic_qa.patches import Patch
from orchestrator.datasets.acoustic_qa.voices import SoundFont, ToneShape, Utterance, VoiceError, espeak, flite, tone

NOTE_HELD_S, NOTE_RELEASE_S = 1.25, 0.1
SOUND_MAX_S, WORD_MAX_S, DRUM_MAX_S = 8.0, 1.2, 0.8
QUIET = 0.03  # of the envelope's maximum: below it a sound has not begun, or is over
PAUSE_KEPT_S = 0.12  # what is left of a silence inside a recording
TONE_SHAPES = {
    "train": (ToneShape(1.3, 0.01, 0.0, 0.0), ToneShape(1.3, 0.03, 8.0, 1.0)),
    "held_out": (ToneShape(1.3, 0.02, 4.0, 2.2),),
}


@dataclass(frozen=True, slots=True)
class Cut:
    """A recording before it is catalogued: its sound at any level."""

    kind: str
    domain: str
    split: str
    source: str
    name: str
    wave_L: np.ndarray
    midi: int | None = None


class Cutter:
    """Cuts what the recipe names out of a library. problems: what could not be had, in words, filled while cutting."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self.problems: list[str] = []

    def all(self) -> list[Cut]:
        return [
            *self._prompts(),
            *self._espeak(),
            *self._flite(),
            *self._sounds(),
            *self._notes(),
            *tones(),
            *self._drums(),
        ]

    def _read(self, domain: str, place: str, max_s: float, keep_pauses: bool = True) -> np.ndarray | None:
        """The trimmed sound, or None with a problem noted; a missing package was noted when it was fetched."""
        if not self._library.has(place.split(":", 1)[0]):
            return None
        try:
            return trim(self._library.read(place, max_s), keep_pauses)
        except (LibraryError, ArchiveError) as error:
            self.problems.append(f"{domain}: {error}")
            return None

    def _prompts(self) -> Iterator[Cut]:
        for split, speakers in recipe.SPEAKERS.items():
            for speaker, (package, digits, days) in speakers.items():
                for number, word in enumerate(recipe.WORDS):
                    name = digits if number < 10 else days
                    if name is None:
                        continue
                    wave = self._read("speech", f"{package}:{name.format(digit=number, day=number - 10)}", WORD_MAX_S)
                    if wave is not None:
                        yield Cut(word, "speech", split, package, speaker, wave)

    def _espeak(self) -> Iterator[Cut]:
        jobs = [
            (split, Utterance(voice, word, *manner))
            for split, voices in recipe.ESPEAK_VOICES.items()
            for voice, manner in voices.items()
            for word in recipe.WORDS
        ]
        try:
            said, rate = espeak([utterance for _, utterance in jobs])
        except VoiceError as error:
            self.problems.append(f"speech: {error}")
            return
        for (split, utterance), samples in zip(jobs, said, strict=True):
            if len(samples):
                wave = trim(to_rate(samples, rate))[: int(WORD_MAX_S * RATE)]
                yield Cut(utterance.text, "speech", split, "espeak-ng", f"espeak-{utterance.voice}", wave)
        unknown = sorted({u.voice for (_, u), samples in zip(jobs, said, strict=True) if not len(samples)})
        if unknown:
            self.problems.append(f"speech: espeak-ng does not speak with {', '.join(unknown)}")

    def _flite(self) -> Iterator[Cut]:
        binaries = self._library.paths("flite", "*/bin/flite")
        folders = sorted({p.parent for name in ("libflite1", "libasound2") for p in self._library.paths(name, "*.so*")})
        if not binaries:
            return
        jobs = [
            (split, voice, word)
            for split, voices in recipe.FLITE_VOICES.items()
            for voice in voices
            for word in recipe.WORDS
        ]

        def say(job: tuple[str, str, str]) -> np.ndarray:
            split, voice, word = job
            stretch, mean_f0_hz = recipe.FLITE_VOICES[split][voice]
            name = voice.split("/")[0]
            samples, rate = flite(binaries[0], folders, word, voice=name, stretch=stretch, mean_f0_hz=mean_f0_hz)
            return trim(to_rate(samples, rate))[: int(WORD_MAX_S * RATE)]

        try:
            with ThreadPoolExecutor(2) as pool:
                said = list(pool.map(say, jobs))
        except VoiceError as error:
            self.problems.append(f"speech: {error}")
            return
        for (split, voice, word), wave in zip(jobs, said, strict=True):
            yield Cut(word, "speech", split, "flite", f"flite-{voice.replace('/', '-')}", wave)

    def _sounds(self) -> Iterator[Cut]:
        for kind, sides in recipe.SOUNDS.items():
            for split, places in zip(("train", "held_out"), sides, strict=True):
                for place in places:
                    package, locator = place.split(":", 1)
                    wave = self._read("sound", place, SOUND_MAX_S, keep_pauses=False)
                    if wave is not None:
                        yield Cut(kind, "sound", split, package, f"{package}-{Path(locator).stem}", wave)

    def _notes(self) -> Iterator[Cut]:
        for split, packages in recipe.SOUNDFONTS.items():
            for package, programs in packages.items():
                if not self._library.has(package):
                    continue
                try:
                    for kind, program, waves in self._played(package, programs):
                        for midi, wave in zip(recipe.NOTES, waves, strict=True):
                            yield Cut(kind, "music", split, package, f"{package}-{program}", trim(wave), midi)
                except (VoiceError, LibraryError) as error:
                    self.problems.append(f"music: {package}: {error}")

    def _played(
        self, package: str, programs: dict[str, tuple[int, ...]]
    ) -> Iterator[tuple[str, int, Iterator[np.ndarray]]]:
        """(kind, program, a wave for each of NOTES) from a soundfont or a folder of patches."""
        fonts = self._library.paths(package, "*/sounds/sf[23]/*.sf[23]")
        font = SoundFont(fonts[0], RATE) if fonts else None
        for kind, numbers in programs.items():
            for program in numbers:
                if font is not None:
                    yield kind, program, font.notes(program, recipe.NOTES, NOTE_HELD_S, NOTE_RELEASE_S)
                    continue
                patches = self._library.paths(package, f"*/Tone_000/{program:03d}_*.pat")
                if not patches:
                    raise LibraryError(f"it has neither a soundfont nor a patch of program {program}")
                yield kind, program, Patch(patches[0], RATE).notes(recipe.NOTES, NOTE_HELD_S + NOTE_RELEASE_S)

    def _drums(self) -> Iterator[Cut]:
        for split, places in recipe.DRUMS.items():
            for place in places:
                package = place.split(":", 1)[0]
                for name in self._library.find(place):
                    wave = self._read("drum", f"{package}:{name}", DRUM_MAX_S)
                    if wave is not None:
                        yield Cut("drum", "drum", split, package, f"{package}-{Path(name).stem}", wave)


def tones() -> Iterator[Cut]:
    for split, shapes in TONE_SHAPES.items():
        for number, shape in enumerate(shapes):
            for kind in recipe.TONES:
                for midi in recipe.NOTES:
                    frequency = 440.0 * 2.0 ** ((midi - 69) / 12)
                    yield Cut(
                        kind,
                        "tone",
                        split,
                        "synthesised",
                        f"{split}-{number}",
                        tone(kind, frequency, RATE, shape),
                        midi,
                    )


def trim(samples_L: np.ndarray, keep_pauses: bool = True) -> np.ndarray:
    """Without the silence at both ends and, if asked, with the silences inside shortened to PAUSE_KEPT_S."""
    window = RATE // 50
    envelope = np.convolve(np.abs(samples_L), np.ones(window) / window, "same")
    loud = envelope > QUIET * envelope.max()
    at = np.flatnonzero(loud)
    if not at.size:
        raise LibraryError("a recording is silent")
    start, end = at[0], at[-1] + 1
    if keep_pauses:
        return samples_L[start:end]
    keep = loud[start:end].copy()
    reach = int(PAUSE_KEPT_S / 2 * RATE)
    edges = np.flatnonzero(np.diff(keep.astype(np.int8)))
    for edge in edges:
        keep[max(0, edge - reach) : edge + reach] = True
    return samples_L[start:end][keep]

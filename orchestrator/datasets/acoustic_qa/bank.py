"""The bank: every recording cut, resampled to 16 kHz, levelled, and listed in a catalogue.

Neighbours: `sources` fetched the packages, `recipe` says what serves what, `render` mixes clips from the bank.
Invariants: the same packages give the same bytes; a recording's level is its RMS over the cut (REFERENCE_RMS), so that gains in a
scene are levels; a kind that lacks a side of the split is left out and named; silences inside long recordings are shortened, so
that any window of one holds sound.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import io
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import resample_poly

from orchestrator.datasets.acoustic_qa import recipe
from orchestrator.datasets.acoustic_qa.archives import ArchiveError, read_cat, read_rcc
from orchestrator.datasets.acoustic_qa.scenes import Recording
from orchestrator.datasets.acoustic_qa.sources import PACKAGES, Fetched, Source
from orchestrator.datasets.acoustic_qa.voices import Espeak, SoundFont, VoiceError, flite, tone


RATE = 16_000
REFERENCE_RMS = 0.1
NOTE_HELD_S, NOTE_RELEASE_S = 1.25, 0.1
SOUND_MAX_S, WORD_MAX_S, DRUM_MAX_S = 8.0, 1.2, 0.8
QUIET = 0.03  # of the envelope's maximum: below it a sound has not begun, or is over
STORED_UNIT = 2048  # int16 value of a wave's RMS: crests up to 16 times the RMS fit
PAUSE_KEPT_S = 0.12  # what is left of a silence inside a recording
TONE_SHAPES = {  # (seconds, attack s, decay dB, phase)
    "train": ((1.3, 0.01, 0.0, 0.0), (1.3, 0.03, 8.0, 1.0)),
    "held_out": ((1.3, 0.02, 4.0, 2.2),),
}
FORMAT = 1  # of the bank's files; a bank of another format is built anew


class BankError(Exception):
    """The bank cannot be built or read; the message says why and what to do."""


@dataclass(frozen=True)
class Bank:
    """Recordings and their sound. waves: float32 [L] at 16 kHz, RMS REFERENCE_RMS, by recording id; digest: of all of it."""

    recordings: tuple[Recording, ...]
    waves: dict[str, np.ndarray]
    digest: str


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


class Library:
    """Sounds inside fetched packages, by "package:locator": a title in a sample set, or the end of one file's path."""

    def __init__(self, sources: dict[str, Source]) -> None:
        self._sources = sources
        self._entries: dict[str, dict[str, bytes | Path]] = {}

    def has(self, package: str) -> bool:
        return package in self._sources

    def find(self, place: str) -> list[str]:
        """Names in "package:glob", sorted; [] if the package is missing."""
        package, pattern = place.split(":", 1)
        return sorted(n for n in self._index(package) if fnmatch.fnmatchcase(n, pattern)) if self.has(package) else []

    def paths(self, package: str, pattern: str) -> list[Path]:
        """Files of a package by the shape of their path, sorted; [] if the package is missing."""
        index = self._index(package) if self.has(package) else {}
        return [p for n, p in sorted(index.items()) if isinstance(p, Path) and fnmatch.fnmatchcase(n, pattern)]

    def read(self, place: str, max_s: float) -> np.ndarray:
        """float32 [L] mono at 16 kHz. Raises BankError when there is no such sound, or more than one."""
        package, locator = place.split(":", 1)
        index = self._index(package)
        names = [locator] if locator in index else [n for n in index if n.endswith(f"/{locator}")]
        if len(names) != 1:
            raise BankError(f"{package} has {len(names)} sounds named {locator!r}; the package has changed")
        entry = index[names[0]]
        try:
            samples, rate = soundfile.read(io.BytesIO(entry) if isinstance(entry, bytes) else entry, dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, OSError) as error:
            raise BankError(f"{place} cannot be decoded: {error}") from error
        return to_rate(samples.mean(axis=1)[: int(max_s * rate)], rate)

    def _index(self, package: str) -> dict[str, bytes | Path]:
        if package not in self._entries:
            root = self._sources[package].path
            entries: dict[str, bytes | Path] = {}
            for path in sorted(p for p in root.rglob("*") if p.is_file()):
                if path.suffix == ".rcc":
                    entries |= read_rcc(path, lambda name: name.endswith((".ogg", ".wav")))
                elif path.suffix == ".cat":
                    entries |= read_cat(path)
                else:
                    entries[f"/{path.relative_to(root).as_posix()}"] = path
            self._entries[package] = entries
        return self._entries[package]


def to_rate(samples_L: np.ndarray, rate: int) -> np.ndarray:
    if rate == RATE:
        return samples_L.astype(np.float32)
    common = int(np.gcd(rate, RATE))
    return resample_poly(samples_L, RATE // common, rate // common).astype(np.float32)


def trim(samples_L: np.ndarray, keep_pauses: bool = True) -> np.ndarray:
    """Without the silence at both ends and, if asked, with the silences inside shortened to PAUSE_KEPT_S."""
    window = RATE // 50
    envelope = np.convolve(np.abs(samples_L), np.ones(window) / window, "same")
    loud = envelope > QUIET * envelope.max()
    at = np.flatnonzero(loud)
    if not at.size:
        raise BankError("a recording is silent")
    start, end = at[0], at[-1] + 1
    if keep_pauses:
        return samples_L[start:end]
    keep = loud[start:end].copy()
    reach = int(PAUSE_KEPT_S / 2 * RATE)
    edges = np.flatnonzero(np.diff(keep.astype(np.int8)))
    for edge in edges:
        keep[max(0, edge - reach) : edge + reach] = True
    return samples_L[start:end][keep]


def cut_words(library: Library, problems: list[str]) -> Iterator[Cut]:
    for split, speakers in recipe.SPEAKERS.items():
        for speaker, (package, digits, days) in speakers.items():
            if not library.has(package):
                continue
            for number, word in enumerate(recipe.WORDS):
                pattern = digits if number < 10 else days
                if pattern is not None:
                    place = f"{package}:{pattern.format(digit=number, day=number - 10)}"
                    yield Cut(word, "speech", split, speaker, speaker, trim(library.read(place, WORD_MAX_S)))
    try:
        espeak = Espeak()
        for split, voices in recipe.ESPEAK_VOICES.items():
            for voice, (words_per_minute, pitch) in voices.items():
                for word in recipe.WORDS:
                    wave = to_rate(espeak.say(voice, word, words_per_minute, pitch), espeak.rate)
                    yield Cut(word, "speech", split, f"espeak {voice}", f"espeak-{voice}", trim(wave)[: int(WORD_MAX_S * RATE)])
    except VoiceError as error:
        problems.append(f"speech: {error}")
    yield from _cut_flite(library, problems)


def _cut_flite(library: Library, problems: list[str]) -> Iterator[Cut]:
    if not (library.has("flite") and library.has("libflite1")):
        return
    binary = library.paths("flite", "*/bin/flite")[0]
    folders = {p.parent for package in ("libflite1", "libasound2") for p in library.paths(package, "*.so*")}
    jobs = [
        (split, voice, word, *shape)
        for split, voices in recipe.FLITE_VOICES.items()
        for voice, shape in voices.items()
        for word in recipe.WORDS
    ]
    try:
        with ThreadPoolExecutor(2) as pool:
            said = list(pool.map(lambda j: flite(binary, sorted(folders), j[1].split("/")[0], j[2], j[3], j[4]), jobs))
    except VoiceError as error:
        problems.append(f"speech: {error}")
        return
    for (split, voice, word, *_), (samples, rate) in zip(jobs, said, strict=True):
        yield Cut(word, "speech", split, f"flite {voice}", f"flite-{voice.replace('/', '-')}", trim(to_rate(samples, rate)))


def cut_sounds(library: Library) -> Iterator[Cut]:
    for kind, sides in recipe.SOUNDS.items():
        for split, places in zip(("train", "held_out"), sides, strict=True):
            for place in places:
                package, locator = place.split(":", 1)
                if library.has(package):
                    wave = trim(library.read(place, SOUND_MAX_S), keep_pauses=False)
                    yield Cut(kind, "sound", split, package, f"{package}-{Path(locator).stem}", wave)


def cut_notes(library: Library, problems: list[str]) -> Iterator[Cut]:
    for split, packages in recipe.SOUNDFONTS.items():
        for package in packages:
            files = library.paths(package, "*/sounds/sf[23]/*.sf[23]")
            if not files:
                continue
            try:
                font = SoundFont(files[0], RATE)
                for kind, program in recipe.INSTRUMENTS.items():
                    waves = font.notes(program, recipe.NOTES, NOTE_HELD_S, NOTE_RELEASE_S)
                    for midi, wave in zip(recipe.NOTES, waves, strict=True):
                        yield Cut(kind, "music", split, package, package, trim(wave), midi)
            except VoiceError as error:
                problems.append(f"music: {error}")


def cut_tones() -> Iterator[Cut]:
    for split, shapes in TONE_SHAPES.items():
        for shape, (seconds, attack_s, decay_db, phase) in enumerate(shapes):
            for kind in recipe.TONES:
                for midi in recipe.NOTES:
                    frequency = 440.0 * 2.0 ** ((midi - 69) / 12)
                    wave = tone(kind, frequency, RATE, seconds, attack_s, decay_db, phase)
                    yield Cut(kind, "tone", split, "synthesised", f"{split}-{shape}", wave, midi)


def cut_drums(library: Library) -> Iterator[Cut]:
    for split, places in recipe.DRUMS.items():
        for place in places:
            package = place.split(":", 1)[0]
            for name in library.find(place):
                wave = trim(library.read(f"{package}:{name}", DRUM_MAX_S))
                yield Cut("drum", "drum", split, package, f"{package}-{Path(name).stem}", wave)


def build_bank(fetched: Fetched, folder: Path) -> tuple[Bank, list[str]]:
    """Cuts every recording and writes the bank into `folder` (catalogue.jsonl, waves.npy). Returns it with what is thinner.

    Raises BankError when nothing at all is there, or when a package no longer holds what the recipe names.
    """
    problems = [f"{', '.join(_domains_of(name))}: {name} is missing ({reason})" for name, reason in fetched.missing.items()]
    library = Library(fetched.sources)
    try:
        cuts = [
            *cut_words(library, problems),
            *cut_sounds(library),
            *cut_notes(library, problems),
            *cut_tones(),
            *cut_drums(library),
        ]
    except ArchiveError as error:
        raise BankError(str(error)) from error
    kept, dropped = _both_sides(cuts)
    problems += [f"{domain}: no {side} recording of {', '.join(kinds)}; left out" for (domain, side), kinds in dropped.items()]
    if not kept:
        raise BankError("no kind of sound has recordings for both splits; " + "; ".join(problems))
    recordings, waves = [], []
    for cut in sorted(kept, key=_identity):
        wave = cut.wave_L / max(1e-9, float(np.sqrt(np.mean(np.square(cut.wave_L, dtype=np.float64)))))
        waves.append(np.clip(np.round(wave * STORED_UNIT), -32768, 32767).astype("<i2"))
        seconds = len(wave) / RATE
        recordings.append(Recording(_identity(cut), cut.kind, cut.domain, cut.split, cut.midi, seconds, cut.source))
    if len({r.id for r in recordings}) != len(recordings):
        raise BankError("two recordings of the recipe have the same name")
    _write(folder, recordings, waves)
    return load_bank(folder), problems


def _domains_of(name: str) -> tuple[str, ...]:
    return next((package.domains for package in PACKAGES if package.name == name), ("unknown",))


def load_bank(folder: Path) -> Bank:
    """Reads a bank. Raises BankError when it is missing, damaged or of another format."""
    try:
        head, *lines = (folder / "catalogue.jsonl").read_text().splitlines()
        stored = np.load(folder / "waves.npy", mmap_mode="r")
        if json.loads(head).get("bank_format") != FORMAT:
            raise BankError(f"the bank in {folder} has another format; remove the folder and build it again")
        recordings = tuple(Recording(**json.loads(line)) for line in lines)
    except (OSError, ValueError, TypeError) as error:
        raise BankError(f"no bank can be read in {folder}: {error}; build it again") from error
    waves, at = {}, 0
    for recording in recordings:
        length = round(recording.seconds * RATE)
        waves[recording.id] = stored[at : at + length].astype(np.float32) * (REFERENCE_RMS / STORED_UNIT)
        at += length
    if at != len(stored):
        raise BankError(f"the bank in {folder} is damaged: {len(stored)} samples for a catalogue of {at}; build it again")
    return Bank(recordings, waves, _digest(folder))


def _identity(cut: Cut) -> str:
    note = "" if cut.midi is None else f"/{cut.midi}"
    return f"{cut.kind}/{cut.name}{note}"


def _both_sides(cuts: list[Cut]) -> tuple[list[Cut], dict[tuple[str, str], list[str]]]:
    """Cuts of kinds that can be trained and held out, and (domain, missing side) -> kinds that cannot."""
    sides: dict[tuple[str, str], set[str]] = {}
    for cut in cuts:
        sides.setdefault((cut.domain, cut.kind), set()).add(cut.split)
    dropped: dict[tuple[str, str], list[str]] = {}
    for (domain, kind), found in sorted(sides.items()):
        for side in {"train", "held_out"} - found:
            dropped.setdefault((domain, side), []).append(kind)
    return [c for c in cuts if len(sides[c.domain, c.kind]) == 2], dropped


def _write(folder: Path, recordings: list[Recording], waves: list[np.ndarray]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"bank_format": FORMAT}), *(json.dumps(dataclasses.asdict(r), sort_keys=True) for r in recordings)]
    catalogue, sound = folder / "catalogue.jsonl", folder / "waves.npy"
    for path, write in (
        (sound, lambda target: np.save(target, np.concatenate(waves))),
        (catalogue, lambda target: target.write(("\n".join(lines) + "\n").encode())),
    ):
        staged = path.with_suffix(".part")
        with staged.open("wb") as target:
            write(target)
        os.replace(staged, path)


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in ("catalogue.jsonl", "waves.npy"):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()

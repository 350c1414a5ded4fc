"""Scenes: what sounds when, how high and how loud, drawn by seed from a catalogue of recordings.

Neighbours: `bank` writes the catalogue, `render` makes a waveform of a scene, `questions` asks about it.
Invariants: pure (no audio, no files); the same catalogue, split, family and seed give the same scene; a scene only uses
recordings of its split; differences that a question may ask about are clear or absent, never marginal.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

MIDI_LOW, MIDI_HIGH = 48, 84
FAMILIES = ("word", "sound", "note", "sequence", "levels", "notes", "melody", "repeats", "beat")
MAX_SECONDS = 4.0
BEAT_INTERVALS_S = {"fast": (0.24, 0.33), "medium": (0.46, 0.58), "slow": (0.74, 0.94)}
DECAYING = frozenset({"piano", "guitar", "xylophone", "harp", "marimba", "vibraphone", "bell", "drum"})  # no clear end


@dataclass(frozen=True, slots=True)
class Recording:
    """One sound of the bank. midi: note number of a pitched sound, else None; seconds: its length before resampling."""

    id: str
    kind: str
    domain: str  # "speech" | "sound" | "music" | "drum" | "tone"
    split: str  # "train" | "held_out"
    midi: int | None
    seconds: float
    source: str


@dataclass(frozen=True, slots=True)
class Event:
    """One recording placed in a clip.

    start_s, duration_s: in the clip; gain_db: relative to the loudest event (0 at most); rate: resampling factor, above
    1 is shorter and higher; offset_s: where the cut begins, in seconds of the resampled recording.
    """

    recording_id: str
    kind: str
    domain: str
    start_s: float
    duration_s: float
    gain_db: float
    midi: int | None
    rate: float
    offset_s: float

    @property
    def end_s(self) -> float:
        return self.start_s + self.duration_s

    @property
    def pitch_hz(self) -> float | None:
        return None if self.midi is None else 440.0 * 2.0 ** ((self.midi - 69) / 12)


@dataclass(frozen=True, slots=True)
class Scene:
    """Events in time order over `seconds` of clip.

    noise_db: background noise relative to the loudest event; gain_db: gain of the whole clip; beat_s: interval of a
    steady beat, else None; seed: feeds whatever randomness rendering needs.
    """

    events: tuple[Event, ...]
    seconds: float
    noise_db: float
    gain_db: float
    seed: int
    family: str
    beat_s: float | None = None


class Catalogue:
    """Recordings, indexed by kind, split and note. Raises ValueError when empty."""

    def __init__(self, recordings: Iterable[Recording]) -> None:
        self.recordings = tuple(sorted(recordings, key=lambda r: r.id))
        if not self.recordings:
            raise ValueError("the catalogue has no recordings; build the bank first")
        self._by_kind: dict[tuple[str, str], list[Recording]] = {}
        self._by_note: dict[tuple[str, str, int], list[Recording]] = {}
        for recording in self.recordings:
            self._by_kind.setdefault((recording.kind, recording.split), []).append(recording)
            if recording.midi is not None:
                self._by_note.setdefault((recording.kind, recording.split, recording.midi), []).append(recording)

    def kinds(self, domain: str, split: str | None = None) -> tuple[str, ...]:
        """Kinds of a domain (that exist in `split`, if given), sorted."""
        return tuple(sorted({r.kind for r in self.recordings if r.domain == domain and split in (None, r.split)}))

    def choose(self, rng: random.Random, kind: str, split: str, midi: int | None = None) -> Recording:
        """Raises LookupError when the bank has no such recording."""
        found = self._by_kind.get((kind, split)) if midi is None else self._by_note.get((kind, split, midi))
        if not found:
            raise LookupError(f"no {split} recording of {kind!r}" + ("" if midi is None else f" at note {midi}"))
        return rng.choice(found)


class SceneWriter:
    """Draws scenes of one split from a catalogue."""

    def __init__(self, catalogue: Catalogue, split: str) -> None:
        self.catalogue, self.split = catalogue, split
        self.kinds = {d: catalogue.kinds(d, split) for d in ("speech", "sound", "music", "drum", "tone")}
        self.pitched = self.kinds["music"] + self.kinds["tone"]
        self.sustained = tuple(k for k in self.pitched if k not in DECAYING)
        self._writers = {
            "word": self._word,
            "sound": self._sound,
            "note": self._single_note,
            "sequence": self._sequence,
            "levels": self._levels,
            "notes": self._notes,
            "melody": self._melody,
            "repeats": self._repeats,
        }

    def families(self) -> tuple[str, ...]:
        """Families this catalogue can serve, in the order of FAMILIES."""
        need = {
            "word": self.kinds["speech"],
            "sound": self.kinds["sound"],
            "note": self.kinds["music"],
            "sequence": len([k for kinds in self.kinds.values() for k in kinds]) > 1,
            "levels": any(self.kinds.values()),
            "notes": self.pitched,
            "melody": self.pitched,
            "repeats": any(self.kinds.values()),
            "beat": self.kinds["drum"],
        }
        return tuple(family for family in FAMILIES if need[family])

    def draw(self, family: str, seed: int) -> Scene:
        """A scene of the family. Raises ValueError for an unknown family."""
        if family not in FAMILIES:
            raise ValueError(f"unknown scene family {family!r}; one of {', '.join(FAMILIES)}")
        rng = random.Random(f"{family}/{self.split}/{seed}")
        beat_s = None
        if family == "beat":
            events, beat_s = self._beat(rng)
        else:
            events = self._writers[family](rng)
        loudest = max(e.gain_db for e in events)
        if loudest != 0.0:
            raise ValueError(f"scene family {family!r} has no event at 0 dB")
        seconds = min(MAX_SECONDS, round(max(1.0, events[-1].end_s + rng.uniform(0.15, 0.4)), 2))
        return Scene(
            events=tuple(events),
            seconds=seconds,
            noise_db=round(rng.uniform(-45.0, -32.0), 1),
            gain_db=round(rng.uniform(-6.0, 6.0), 1),
            seed=rng.getrandbits(31),
            family=family,
            beat_s=beat_s,
        )

    def _event(
        self,
        rng: random.Random,
        recording: Recording,
        start_s: float,
        max_s: float,
        gain_db: float = 0.0,
        *,
        like: Event | None = None,
    ) -> Event:
        """Places a recording, cut to at most max_s seconds.

        Train recordings without a note are resampled a little; `like` repeats another event's rate and cut.
        """
        rate, offset_s = (None, None) if like is None else (like.rate, like.offset_s)
        if rate is None:
            spread = {"sound": (0.75, 1.3), "speech": (0.92, 1.09)}.get(recording.domain)
            rate = rng.uniform(*spread) if spread and self.split == "train" else 1.0
        whole = recording.seconds / rate
        duration = min(whole, max_s)
        if offset_s is None:
            offset_s = rng.uniform(0.0, whole - duration) if recording.domain == "sound" else 0.0
        return Event(
            recording_id=recording.id,
            kind=recording.kind,
            domain=recording.domain,
            start_s=round(start_s, 3),
            duration_s=round(duration, 3),
            gain_db=round(gain_db, 2),
            midi=recording.midi,
            rate=round(rate, 4),
            offset_s=round(offset_s, 3),
        )

    def _note(self, rng: random.Random, kind: str, midi: int | None = None) -> Recording:
        return self.catalogue.choose(rng, kind, self.split, rng.randint(MIDI_LOW, MIDI_HIGH) if midi is None else midi)

    def _any_kind(self, rng: random.Random, domains: tuple[str, ...]) -> str:
        return rng.choice(self.kinds[rng.choice([d for d in domains if self.kinds[d]])])

    def _recording(self, rng: random.Random, kind: str) -> Recording:
        return self._note(rng, kind) if kind in self.pitched else self.catalogue.choose(rng, kind, self.split)

    def _word(self, rng: random.Random) -> list[Event]:
        recording = self.catalogue.choose(rng, rng.choice(self.kinds["speech"]), self.split)
        return [self._event(rng, recording, rng.uniform(0.1, 0.5), 0.9)]

    def _sound(self, rng: random.Random) -> list[Event]:
        recording = self.catalogue.choose(rng, rng.choice(self.kinds["sound"]), self.split)
        return [self._event(rng, recording, rng.uniform(0.05, 0.4), rng.uniform(1.0, 1.7))]

    def _single_note(self, rng: random.Random) -> list[Event]:
        recording = self._note(rng, rng.choice(self.kinds["music"]))
        return [self._event(rng, recording, rng.uniform(0.05, 0.5), rng.uniform(0.5, 1.2))]

    def _sequence(self, rng: random.Random) -> list[Event]:
        domains = ("speech", "sound", "music", "drum")
        first = self._any_kind(rng, domains)
        second = first
        while second == first:
            second = self._any_kind(rng, domains)
        one = self._event(rng, self._recording(rng, first), rng.uniform(0.05, 0.3), rng.uniform(0.6, 0.9))
        start = one.end_s + rng.uniform(0.12, 0.3)
        return [one, self._event(rng, self._recording(rng, second), start, rng.uniform(0.6, 0.9))]

    def _levels(self, rng: random.Random) -> list[Event]:
        recording = self._recording(rng, self._any_kind(rng, ("speech", "sound", "music", "drum", "tone")))
        gains = [0.0, -_level_gap(rng)]
        rng.shuffle(gains)
        one = self._event(rng, recording, rng.uniform(0.05, 0.4), rng.uniform(0.4, 0.7), gains[0])
        start = one.end_s + rng.uniform(0.15, 0.4)
        return [one, self._event(rng, recording, start, one.duration_s, gains[1], like=one)]

    def _notes(self, rng: random.Random) -> list[Event]:
        """Two notes of one instrument; they differ in pitch, some also in length or level."""
        longer = rng.random() < 0.55
        kind = rng.choice(self.sustained if longer and self.sustained else self.pitched)
        low = rng.randint(MIDI_LOW, MIDI_HIGH - 5)
        pitches = [low, rng.randint(low + 5, min(MIDI_HIGH, low + 16))]
        rng.shuffle(pitches)
        gains = [0.0, -_level_gap(rng) if rng.random() < 0.5 else 0.0]
        rng.shuffle(gains)
        shorter_s = rng.uniform(0.3, 0.5)
        lengths = [shorter_s, shorter_s + rng.uniform(0.35, 0.7)] if longer else [rng.uniform(0.4, 0.7)] * 2
        rng.shuffle(lengths)
        one = self._event(rng, self._note(rng, kind, pitches[0]), rng.uniform(0.05, 0.4), lengths[0], gains[0])
        start = one.end_s + rng.uniform(0.15, 0.4)
        return [one, self._event(rng, self._note(rng, kind, pitches[1]), start, lengths[1], gains[1])]

    def _melody(self, rng: random.Random) -> list[Event]:
        kind = rng.choice(self.pitched)
        count = rng.choice((3, 3, 4))
        steps = [rng.randint(4, 8) for _ in range(count - 1)]
        pitches = [rng.randint(MIDI_LOW, MIDI_HIGH - sum(steps))]
        for step in steps:
            pitches.append(pitches[-1] + step)
        if rng.random() < 0.5:
            pitches.reverse()
        length, gap = rng.uniform(0.32, 0.5), rng.uniform(0.1, 0.2)
        start, events = rng.uniform(0.05, 0.3), []
        for midi in pitches:
            events.append(self._event(rng, self._note(rng, kind, midi), start, length))
            start = events[-1].end_s + gap
        return events

    def _repeats(self, rng: random.Random) -> list[Event]:
        """One to five times the same short sound at uneven distances."""
        recording = self._recording(rng, self._any_kind(rng, ("drum", "drum", "music", "sound", "tone")))
        start, events = rng.uniform(0.05, 0.4), []
        count = rng.randint(1, 5)
        first: Event | None = None
        for _ in range(count):
            event = self._event(rng, recording, start, 0.26, like=first)
            first = first or event
            events.append(event)
            start = start + max(event.duration_s, 0.12) + rng.uniform(0.14, 0.42)
        return events

    def _beat(self, rng: random.Random) -> tuple[list[Event], float]:
        interval = round(rng.uniform(*BEAT_INTERVALS_S[rng.choice(sorted(BEAT_INTERVALS_S))]), 3)
        recording = self.catalogue.choose(rng, rng.choice(self.kinds["drum"]), self.split)
        start = rng.uniform(0.05, 0.3)
        until = max(2.0 * interval + 0.1, rng.uniform(1.6, 2.4))
        events = []
        while start <= until:
            events.append(self._event(rng, recording, start, min(0.22, interval - 0.06)))
            start += interval
        return events, interval


def _level_gap(rng: random.Random) -> float:
    """Six to thirteen dB: two grid steps at least, so that the statements of both levels differ clearly."""
    return rng.uniform(6.0, 13.0)

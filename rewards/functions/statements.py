"""Acoustic statements in free prose: `a tone around 440 Hz`, `three knocks`, `the second is 6 dB louder`, `it starts at 1.2 s`.

Neighbours: `grounding` collects them, `facts` checks them; the fixed sentences of `perceptions` are not repeated here.
Invariants: pure; what can't be read without guessing states nothing; a number counts once. Questions, conditions, quoted
speech and lists of options state nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache

from rewards.functions.lexicon import event_nouns
from rewards.functions.wording import (
    CLIP_WORDS,
    COMPARED,
    DIFFERENCE_AFTER,
    ELEMENT,
    END_BEFORE,
    EVERY,
    FALLING,
    GAP_AFTER,
    GAP_BEFORE,
    LENGTH_AFTER,
    LENGTH_BEFORE,
    LEVEL_WORDS,
    NEGATED,
    NO_STATEMENT,
    NOTE_NAME,
    NOTES,
    OCTAVE,
    ONE_AND_ONLY,
    ONE_UNIT,
    PARTIAL,
    PITCH_WORDS,
    PLACE,
    PLACES,
    QUANTITY,
    RATE,
    RISING,
    SPECTRUM,
    START_AFTER,
    START_BEFORE,
    STEADY,
    STEP_WORDS,
    TEMPO,
    WORDS,
)

LONGEST = 1000  # characters of a sentence that are read; nobody writes such, a loop without a full stop does


class About(StrEnum):
    PITCH = "pitch"  # Hz
    INTERVAL = "interval"  # semitones between two events, without sign
    CONTOUR = "contour"  # rising, falling or steady
    BEAT = "beat"  # seconds between beats
    COUNT = "count"  # events
    START = "start"  # seconds
    END = "end"
    LENGTH = "length"
    GAP = "gap"  # seconds between two events
    CLIP = "clip"  # seconds, the whole recording
    LEVEL = "level"  # dB against the loudest
    LEVEL_STEP = "level_step"  # dB between two events, without sign
    LOUDER = "louder"  # an event against another one, or against all
    HIGHER = "higher"
    LONGER = "longer"
    OTHER = "other"  # a quantity that nothing here can check: a formant, a band, dBFS


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement.

    event, other: which events, from 0, -1 for the last, None when not said; to: upper end of a range; listed: length of the list
    it stands in, with `event` its place there; yes: False for `not louder`. value: of a comparison 1 for more, -1 for less.
    """

    about: About
    value: float | str = 0.0
    event: int | None = None
    other: int | None = None
    to: float | None = None
    listed: int = 0
    yes: bool = True


@dataclass(frozen=True, slots=True)
class Context:
    """Where a quantity stands: the words before and after it, up to the next quantity; sentence: all of it, quantities blanked;
    place: the event it is about."""

    before: str
    after: str
    sentence: str
    place: int | None


def free_statements(sentence: str) -> list[Statement]:
    """Every acoustic statement of one sentence, in the order in which kinds are looked for."""
    sentence = sentence[:LONGEST]
    if NO_STATEMENT.search(sentence):
        return []
    found: list[Statement] = []
    text = sentence
    for reader in (_beats, _note_names, _octaves, _quantities, _counts):
        statements, text = reader(text)
        found.extend(statements)
    found.extend(_comparisons(sentence))
    found.extend(_contours(sentence))
    return found


def _number(text: str) -> float:
    return float(WORDS[text.lower()]) if text.lower() in WORDS else float(text.replace("−", "-"))


def _blank(text: str, match: re.Match[str]) -> str:
    return text[: match.start()] + "\0" * (match.end() - match.start()) + text[match.end() :]


def _beats(text: str) -> tuple[list[Statement], str]:
    found = []
    for match in EVERY.finditer(text):
        if match["number"]:
            seconds = _number(match["number"]) * (0.001 if match["unit"].lower().startswith("m") else 1.0)
        else:
            seconds = 1.0 if match["one"] else 0.5 if match["half"].lower() == "half" else 0.25
        found.append(Statement(About.BEAT, seconds))
        text = _blank(text, match)
    for pattern in (RATE, TEMPO):
        for match in pattern.finditer(text):
            rate = _number(match["number"])
            per_s = match.groupdict().get("per", "").lower() == "second"
            if rate > 0:
                found.append(Statement(About.BEAT, (1.0 if per_s else 60.0) / rate))
            text = _blank(text, match)
    return found, text


def _note_names(text: str) -> tuple[list[Statement], str]:
    matches = list(NOTE_NAME.finditer(text)) if PITCH_WORDS.search(text) else []
    found = []
    for match in matches:
        semitones = NOTES[match["note"].lower()] + 12 * (int(match["octave"]) - 4)
        semitones += {"#": 1, "♯": 1, "b": -1, "♭": -1}.get(match["sharp"], 0)
        found.append(
            Statement(About.PITCH, 440.0 * 2 ** (semitones / 12), event=_place(text, match.start(), match.end()))
        )
        text = _blank(text, match)
    return found, text


def _octaves(text: str) -> tuple[list[Statement], str]:
    return [
        Statement(About.INTERVAL, 24.0 if m["count"].lower() == "two" else 12.0) for m in OCTAVE.finditer(text)
    ], text


def _quantities(text: str) -> tuple[list[Statement], str]:
    """Numbers with a unit. A list shares its last unit; `200 to 250 Hz` is a range."""
    found: list[Statement] = []
    blanked = text
    matches = [match for match in QUANTITY.finditer(text) if match["unit"] or ONE_UNIT.search(match["list"])]
    for match in matches:
        blanked = _blank(blanked, match)
    for match in matches:
        last = match["unit"] or ONE_UNIT.findall(match["list"])[-1]
        elements = [(_number(m["number"]), (m["unit"] or last).lower()) for m in ELEMENT.finditer(match["list"])]
        before, after = blanked[: match.start()].rpartition("\0")[2], blanked[match.end() :].partition("\0")[0]
        between = re.search(r"\bbetween\s*$", before, re.IGNORECASE) is not None and " and " in match["list"]
        ranged = len(elements) == 2 and (between or re.search(r"\bto\b|\d\s*[-–—]\s*\d", match["list"]) is not None)
        if re.search(r"\d-[a-z]", match.group(), re.IGNORECASE) and after[:1] == " ":
            after = " long" + after  # `0.2-second bursts`
        context = Context(before, after, blanked, _place(blanked, match.start(), match.end()))
        if len({unit for _, unit in elements}) > 1:
            ends = [replace(context, after="")] * (len(elements) - 1) + [context]
            stated = [
                s
                for (value, unit), end in zip(elements, ends, strict=True)
                for s in _classified(unit, [value], False, end)
            ]
        else:
            stated = list(_classified(elements[0][1], [value for value, _ in elements], ranged, context))
        if found and stated == [Statement(About.OTHER, elements[0][0])] and found[-1].about is About.LENGTH:
            stated = [
                Statement(About.LENGTH, elements[0][0], context.place)
            ]  # `the first lasts 0.7 s, the second only 0.4 s`
        found.extend(stated)
    return found, blanked


def _classified(unit: str, values: list[float], ranged: bool, context: Context) -> Iterator[Statement]:
    """The statements of one list of values, by unit and neighbouring words."""
    before, after, place = context.before, context.after, context.place
    if unit.startswith(("hz", "hertz", "k")):
        scale = 1000.0 if unit.startswith("k") else 1.0
        about = About.OTHER if SPECTRUM.search(before + " " + after) else About.PITCH
        if ranged and re.search(r"\bfrom\s+\S*\s*$", before, re.IGNORECASE):
            yield from (Statement(about, scale * value, place) for value in values)
        else:
            yield from _spread(about, [scale * value for value in values], ranged, place)
    elif unit.startswith(("db", "decibel")):
        relative = unit in ("db", "decibel", "decibels")
        about = About.OTHER
        if relative:
            about = About.LEVEL_STEP if STEP_WORDS.search(before[-40:] + " " + after[:40]) else About.LEVEL
        yield from _spread(about, values, ranged, place)
    elif unit.startswith(("semitone", "half")):
        yield from (Statement(About.INTERVAL, abs(value)) for value in values)
    elif unit.startswith(("bpm", "beat")):
        yield from _spread(About.BEAT, sorted(60.0 / value for value in values if value > 0), ranged, None)
    else:
        seconds = [value * (0.001 if unit.startswith("m") else 1.0) for value in values]
        yield from _times(seconds, ranged, context)


def _times(seconds: list[float], ranged: bool, context: Context) -> Iterator[Statement]:
    before, after, place = context.before, context.after, context.place
    if DIFFERENCE_AFTER.search(after):
        yield from (Statement(About.OTHER, value) for value in seconds)
    elif LENGTH_AFTER.search(after) or (LENGTH_BEFORE.search(before) and not START_AFTER.search(after)):
        about = About.CLIP if place is None and CLIP_WORDS.search(context.sentence) else About.LENGTH
        yield from _spread(about, seconds, ranged, place)
    elif GAP_AFTER.search(after) or GAP_BEFORE.search(before):
        yield from _spread(About.GAP, seconds, ranged, None)
    elif ranged:
        yield Statement(About.START, seconds[0], place)
        yield Statement(About.END, seconds[1], place)
    elif END_BEFORE.search(before):
        yield from _spread(About.END, seconds, ranged, place)
    elif START_AFTER.search(after) or START_BEFORE.search(before):
        yield from _spread(About.START, seconds, ranged, place)
    else:
        yield from (Statement(About.OTHER, value) for value in seconds)


def _spread(about: About, values: list[float], ranged: bool, place: int | None) -> Iterator[Statement]:
    """One statement a value; the range of two values is one."""
    if ranged:
        yield Statement(about, min(values), place, to=max(values))
    elif len(values) == 1:
        yield Statement(about, values[0], place)
    else:
        yield from (Statement(about, value, i, listed=len(values)) for i, value in enumerate(values))


def _places(text: str) -> list[tuple[int, int]]:
    """(position, event) of every `first`, `third`, `note 2`; the unit `second` is none."""
    found = []
    for match in PLACE.finditer(text):
        if match["number"]:
            found.append((match.start(), int(match["number"]) - 1))
        elif not re.search(r"(?:[\d\0]|\b(?:per|every|each|a|half|one))[\s-]*$", text[: match.start()], re.IGNORECASE):
            found.append((match.start(), PLACES[match["place"].lower()]))
    return found


def _place(text: str, start: int, end: int) -> int | None:
    """The event that a quantity is about: the nearest one named before it in the sentence, else the first one after it."""
    places = _places(text)
    earlier = [event for position, event in places if position < start and not re.search(r"[;]", text[position:start])]
    later = [event for position, event in places if position >= end and not re.search(r"[;,\0]", text[end:position])]
    return earlier[-1] if earlier else later[0] if later else None


@lru_cache(maxsize=1)
def _counted() -> re.Pattern[str]:
    """A number, up to three adjectives, and a noun for single sounds."""
    nouns = "|".join(sorted(event_nouns(), key=len, reverse=True))
    return re.compile(
        rf"(?P<number>(?<![\w.\-])\d{{1,2}}|\b(?:{'|'.join(WORDS)}))[\s-]+(?:(?!(?:of|the|and|or|to|than|is|are)\b)[a-z-]+,?\s+){{0,3}}?"
        rf"(?:{nouns})(?P<plural>(?:e?s)?)\b",
        re.IGNORECASE,
    )


def _counts(text: str) -> tuple[list[Statement], str]:
    found = []
    for match in _counted().finditer(text):
        value, before = int(_number(match["number"])), text[: match.start()]
        if PARTIAL.search(before) or bool(match["plural"]) != (value != 1):
            continue
        if value == 1 and match["number"].lower() != "single" and not ONE_AND_ONLY.search(before):
            continue
        found.append(Statement(About.COUNT, float(value)))
    return found, text


def _comparisons(sentence: str) -> Iterator[Statement]:
    text = sentence
    for match in QUANTITY.finditer(sentence):
        if match["unit"]:
            text = _blank(text, match)
    places = _places(text)
    for match in COMPARED.finditer(text):
        subject = [(p, event) for p, event in places if p < match.start() and "," not in text[p : match.start()]]
        if not subject:
            continue
        than = re.match(r"(?:\s+\w+){0,4}?\s+(?:than|compared\s+(?:to|with))\b", text[match.end() :], re.IGNORECASE)
        other = next((event for p, event in places if than and p > match.end()), None)
        kind = match.lastgroup or ""
        louder, pitched = kind in ("LOUDER", "SOFTER"), kind in ("HIGHER", "LOWER")
        if pitched and LEVEL_WORDS.search(text):
            louder, pitched = True, False
        about = About.LOUDER if louder else About.HIGHER if pitched else About.LONGER
        position, event = subject[-1]
        denied = NEGATED.search(text[position : match.start()]) is not None
        yield Statement(about, 1.0 if kind in ("LOUDER", "HIGHER", "LONGER") else -1.0, event, other, yes=not denied)


def _contours(sentence: str) -> Iterator[Statement]:
    """A direction, where the sentence is about pitch and names only one."""
    if not PITCH_WORDS.search(sentence) or LEVEL_WORDS.search(sentence) or NEGATED.search(sentence):
        return
    up, down = RISING.search(sentence), FALLING.search(sentence)
    if up and not down:
        yield Statement(About.CONTOUR, "rising", _place(sentence, up.start(), up.end()))
    elif down and not up:
        yield Statement(About.CONTOUR, "falling", _place(sentence, down.start(), down.end()))
    elif (
        not up
        and STEADY.search(sentence)
        and re.search(r"\bpitch\b|\bintonation\b|\bcontour\b", sentence, re.IGNORECASE)
    ):
        yield Statement(About.CONTOUR, "steady")

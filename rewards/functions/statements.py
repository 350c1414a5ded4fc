"""Acoustic statements in free prose: `a tone around 440 Hz`, `three knocks`, `the second is 6 dB louder`, `it starts at 1.2 s`.

Neighbours: `grounding` collects them, `facts` checks them; the fixed sentences of `perceptions` are not repeated here.
Invariants: pure; what can't be read without guessing states nothing; a number counts once. Questions, conditions, quoted
speech and lists of options state nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from rewards.functions.lexicon import event_nouns


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


# fmt: off
WORDS = {
    "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11,
    "twelve": 12, "single": 1,
}
PLACES = {
    "first": 0, "1st": 0, "second": 1, "2nd": 1, "third": 2, "3rd": 2, "fourth": 3, "4th": 3, "fifth": 4, "5th": 4, "sixth": 5,
    "last": -1, "final": -1,
}
NOTES = {"c": -9, "d": -7, "e": -5, "f": -4, "g": -2, "a": 0, "b": 2}  # semitones from A of the same octave
# fmt: on
NUMBER = r"(?<![\w.])[+\-−]?\d+(?:\.\d+)?"
UNIT = (
    r"k?hz|kilohertz|hertz|ms|msec|milliseconds?|s|secs?|seconds?|db(?:fs|\s*spl)?|decibels?|semitones?|half[\s-]steps?|"
    r"bpm|beats?\s+(?:per|a)\s+minute|beats?/min"
)
QUANTITY = re.compile(
    rf"(?P<list>{NUMBER}(?:\s*(?:{UNIT})\b)?(?:(?:\s*,\s*(?:and\s+|then\s+)?|\s+(?:and|to|then|or)\s+(?:about\s+|around\s+)?|"
    rf"\s*[-–—→]\s*){NUMBER}(?:\s*(?:{UNIT})\b)?)*)(?<=[\w])[\s-]*(?P<unit>(?<![a-z])(?:{UNIT}))?(?![\w/])",
    re.IGNORECASE,
)
ONE_UNIT = re.compile(rf"(?:{UNIT})(?![\w/])", re.IGNORECASE)
PLACE = re.compile(
    r"\b(?P<place>first|second|third|fourth|fifth|sixth|last|final|1st|2nd|3rd|4th|5th)\b|"
    r"\b(?:note|tone|sound|event|beep|pulse|level|knock|hit|clip|segment|burst)\s*(?:number\s*|no\.?\s*|#\s*)?(?P<number>[1-9])\b(?!\.\d)",
    re.IGNORECASE,
)
NO_STATEMENT = re.compile(
    r"\?\s*$|^\W*(?:if|suppose|imagine|assuming|whether)\b|\b(?:options?|choices?|candidates?|would|could|sample\s+rate|sampled)\b",
    re.IGNORECASE,
)
EVERY = re.compile(
    rf"\b(?:every|each)\s+(?:about\s+|around\s+|roughly\s+|~\s*)?(?:(?P<number>{NUMBER})\s*(?P<unit>ms|milliseconds?|s|secs?|seconds?)\b"
    r"|(?P<half>half|quarter)(?:\s+of)?(?:\s+an?)?[\s-]+seconds?\b|(?P<one>second)(?=\W*$|\s*[,;)]))",
    re.IGNORECASE,
)
RATE = re.compile(
    rf"(?P<number>{NUMBER}|\b(?:{'|'.join(WORDS)}))\s+(?:[a-z]+\s+)?(?:per|a|each|every)\s+(?P<per>second|minute)\b",
    re.IGNORECASE,
)
TEMPO = re.compile(
    rf"\btempo\b(?:\s+\w+){{0,3}}?\s*(?:of|is|at|:|=|about|around|roughly)\s*(?:about\s+|around\s+|roughly\s+|~\s*)?(?P<number>{NUMBER})"
    rf"(?!\d|\.\d|\s*(?:{UNIT})\b)",
    re.IGNORECASE,
)
NOTE_NAME = re.compile(r"(?<![\w#])(?P<note>[A-G])(?P<sharp>[#♯b♭]?)(?P<octave>[1-7])(?![\w%])")
SPECTRUM = re.compile(
    r"\b(?:energy|formants?|harmonics?|overtones?|partials?|band(?:width)?|spectr\w+|cut-?off|centroid|noise|hiss|roll-?off|above|"
    r"below|under|resonan\w+)\b",
    re.IGNORECASE,
)
STEP_WORDS = re.compile(
    r"\b(?:loude?r|quieter|softer|weaker|stronger|lower|higher|down|difference|differ\w*|drop\w*|apart|below|above|less|more|"
    r"increase\w*|decrease\w*|rise[sn]?|fall[s]?)\b",
    re.IGNORECASE,
)
LENGTH_BEFORE = re.compile(
    r"\b(?:last(?:s|ed|ing)?|for|duration\w*|lengths?|long|takes?|spans?|sustain\w*|held|persists?)\b[^,;]{0,24}$",
    re.IGNORECASE,
)
LENGTH_AFTER = re.compile(
    r"^[\s-]*(?:long\b|in\s+(?:length|duration)|duration|of\s+(?:sound|tone|duration))", re.IGNORECASE
)
END_BEFORE = re.compile(
    r"\b(?:ends?|ended|ending|stops?|stopped|until|till|ceases?|fad(?:es|ing)|finish\w*|cuts?\s+off|dies|over\s+(?:by|at))\b[^,;]{0,24}$",
    re.IGNORECASE,
)
GAP_BEFORE = re.compile(
    r"\b(?:gaps?|paus\w+|silen\w+|interval\w*|separat\w+|spac\w+|wait\w*|between\s+them|breaks?)\b[^,;]{0,30}$",
    re.IGNORECASE,
)
GAP_AFTER = re.compile(
    r"^[\s-]*(?:apart|later|after\s+(?:the|it|that)|between|gap|pause|of\s+silence|interval|silence)", re.IGNORECASE
)
START_BEFORE = re.compile(
    r"\b(?:at|after|from|start\w*|begin\w*|began|onsets?|occurs?|enters?|around|about|comes?|appears?|near|by)\b[^;]{0,30}$",
    re.IGNORECASE,
)
START_AFTER = re.compile(r"^[\s-]*(?:in\b(?!\s+(?:length|duration))|into\b|mark\b|point\b)", re.IGNORECASE)
CLIP_WORDS = re.compile(r"\b(?:clip|recording|audio|file|whole|entire|total)\b", re.IGNORECASE)
DIFFERENCE_AFTER = re.compile(r"^\s*(?:longer|shorter|earlier)\b", re.IGNORECASE)
RISING = re.compile(
    r"\b(?:ris(?:es?|ing|en)|rose|ascend\w*|climb\w*|upwards?|go(?:es|ing)\s+up|sweeps?\s+up|glides?\s+up|moves?\s+up|(?:gets?|getting)\s+higher)\b",
    re.IGNORECASE,
)
FALLING = re.compile(
    r"\b(?:fall(?:s|ing|en)?|fell|descend\w*|downwards?|drop(?:s|ping)?|go(?:es|ing)\s+down|sweeps?\s+down|glides?\s+down|"
    r"moves?\s+down|(?:gets?|getting)\s+lower)\b",
    re.IGNORECASE,
)
STEADY = re.compile(r"\b(?:steady|constant|flat|unchanging|level|stable|same)\b", re.IGNORECASE)
PITCH_WORDS = re.compile(
    r"\b(?:pitch(?:es|ed)?|melod\w+|notes?|tones?|intonation|contour|sweep\w*|glid\w+|frequenc\w+|scale|tune)\b",
    re.IGNORECASE,
)
LEVEL_WORDS = re.compile(
    r"\b(?:level|volume|loud\w*|amplitude|energy|intensity|db|decibels?|tempo|speed|pace)\b", re.IGNORECASE
)
COMPARED = re.compile(
    r"\b(?:(?P<LOUDER>louder|loudest|stronger|strongest|more\s+intense)|(?P<SOFTER>quieter|quietest|softer|softest|weaker|weakest|fainter)|"
    r"(?P<HIGHER>higher|highest)|(?P<LOWER>lower|lowest|deeper|deepest)|(?P<LONGER>longer|longest)|(?P<SHORTER>shorter|shortest|briefer))\b",
    re.IGNORECASE,
)
NEGATED = re.compile(r"\b(?:not|no|never)\b|n['’]t\b", re.IGNORECASE)
PARTIAL = re.compile(
    r"\b(?:first|last|next|other|of\s+the|these|those|another|every|each|between|than)\s*$", re.IGNORECASE
)
ONE_AND_ONLY = re.compile(
    r"\b(?:only|just|exactly|there\s+(?:is|was)(?:\s+only|\s+just)?|hear(?:\s+only|\s+just|\s+exactly)?|a|contains?|total\s+of)\s*$",
    re.IGNORECASE,
)
OCTAVE = re.compile(r"\b(?P<count>an?|one|two)\s+octaves?\b", re.IGNORECASE)


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
    matches = [match for match in QUANTITY.finditer(text) if match["unit"] or ONE_UNIT.search(match["list"])]
    blanked = text
    for match in matches:
        blanked = _blank(blanked, match)
    for match in matches:
        unit = (match["unit"] or ONE_UNIT.findall(match["list"])[-1]).lower()
        values = [_number(number) for number in re.findall(NUMBER, match["list"])]
        before, after = blanked[: match.start()].rpartition("\0")[2], blanked[match.end() :].partition("\0")[0]
        between = re.search(r"\bbetween\s*$", before, re.IGNORECASE) is not None and " and " in match["list"]
        ranged = len(values) == 2 and (between or re.search(r"\bto\b|\d\s*[-–—]\s*\d", match["list"]) is not None)
        if re.search(r"\d-[a-z]", match.group(), re.IGNORECASE) and after[:1] == " ":
            after = " long" + after  # `0.2-second bursts`
        place = _place(blanked, match.start(), match.end())
        stated = list(_classified(unit, values, ranged, Context(before, after, blanked, place)))
        if found and stated[:1] == [Statement(About.OTHER, values[0])] and found[-1].about is About.LENGTH:
            stated = [Statement(About.LENGTH, values[0], place)]  # `the first lasts 0.7 s, the second only 0.4 s`
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

"""How quantities, places and comparisons are worded in English: the patterns of `statements`.

Neighbours: only `statements` reads them. Invariants: no pattern matches across sentences; a unit ends where a word ends.
"""

from __future__ import annotations

import re

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
ELEMENT = re.compile(rf"(?P<number>{NUMBER})(?:[\s-]*(?P<unit>{UNIT})(?![\w/]))?", re.IGNORECASE)
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

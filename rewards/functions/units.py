"""Numbers with their units: "1.2 kHz" is 1200 Hz, "2 min 30 s" is 150 s.

Neighbours: `answer` compares replies with references through `is_number`; `text` finds the digits and number words.
Invariants: pure; the table is data; words that are no unit of the table are nouns ("3 dogs"), not units; quantities of
different dimensions are never equal.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import NamedTuple

from rewards.functions.text import DIGITS, NUMBER_WORDS, SMALL, TENS, is_same_number

# dimension: (size of the unit in the dimension's own, its names), names in lower case and NFKC. Decibels of any reference are one
# dimension (a reply to "-6 dBFS" says "-6 dB"); beats per minute are none of hertz.
UNITS: dict[str, tuple[tuple[float, tuple[str, ...]], ...]] = {
    "frequency": (
        (1.0, ("hz", "hertz", "cycles per second")),
        (1e3, ("khz", "kilohertz")),
        (1e6, ("mhz", "megahertz")),
    ),
    "tempo": ((1.0, ("bpm", "beats per minute", "beats a minute", "beats/min")),),
    "speaking rate": ((1.0, ("wpm", "words per minute", "words a minute")),),
    "level": ((1.0, ("db", "dbfs", "db fs", "dba", "db(a)", "db spl", "decibel", "decibels")),),
    "time": (
        (1.0, ("s", "sec", "secs", "second", "seconds")),
        (1e-3, ("ms", "msec", "millisecond", "milliseconds")),
        (1e-6, ("us", "μs", "microsecond", "microseconds")),
        (60.0, ("min", "mins", "minute", "minutes")),
        (3600.0, ("h", "hr", "hrs", "hour", "hours")),
    ),
    "interval": (
        (1.0, ("semitone", "semitones", "half step", "half steps", "half-step", "half-steps")),
        (0.01, ("cent", "cents")),
        (2.0, ("whole tone", "whole tones", "whole step", "whole steps")),
        (12.0, ("octave", "octaves")),
    ),
    "share": ((1.0, ("%", "percent", "per cent")),),
    "angle": ((1.0, ("°", "deg", "degree", "degrees")), (57.29577951308232, ("rad", "radian", "radians"))),
    "temperature": ((1.0, ("°c", "degrees celsius", "celsius")),),
    "length": (
        (1.0, ("m", "metre", "metres", "meter", "meters")),
        (1e-3, ("mm", "millimetre", "millimetres", "millimeter", "millimeters")),
        (1e-2, ("cm", "centimetre", "centimetres", "centimeter", "centimeters")),
        (1e3, ("km", "kilometre", "kilometres", "kilometer", "kilometers")),
        (0.3048, ("ft", "foot", "feet")),
        (1609.344, ("mile", "miles")),
    ),
    "speed": (
        (1.0, ("m/s", "metres per second", "meters per second")),
        (1 / 3.6, ("km/h", "kmh", "kph", "kilometres per hour", "kilometers per hour")),
        (0.44704, ("mph", "miles per hour")),
    ),
    "mass": (
        (1.0, ("g", "gram", "grams")),
        (1e3, ("kg", "kilogram", "kilograms")),
        (1e-3, ("mg", "milligram", "milligrams")),
    ),
}
NAMES = {name: (dimension, size) for dimension, units in UNITS.items() for size, names in units for name in names}
_UNIT = "|".join(re.escape(name).replace(r"\ ", r"\s+") for name in sorted(NAMES, key=lambda name: -len(name)))
_WORDS = (
    rf"(?:{'|'.join(TENS)})[\s-]+(?:{'|'.join(SMALL[1:10])})|{'|'.join(sorted(NUMBER_WORDS, key=lambda w: -len(w)))}"
)
QUANTITY = re.compile(
    rf"(?:\b(?P<minus>minus|negative)\s+)?(?:(?P<digits>{DIGITS})(?!\d|(?:st|nd|rd|th)\b)|\b(?P<words>{_WORDS})\b)"
    rf"(?:[\s-]*(?P<unit>{_UNIT})(?![\w/°]))?",
    re.IGNORECASE,
)
BETWEEN_PARTS = re.compile(r"\s*,?\s*(?:and\s+)?")  # "2 min 30 s", "1 hour and 5 minutes"

JOIN = 8  # characters between such parts at most


class Quantity(NamedTuple):
    """A number as written; dimension "" and size 1.0 without a unit; size: the unit in the dimension's own."""

    value: float
    dimension: str
    size: float


def quantities(text: str) -> list[Quantity]:
    """Every number of the text in order, in digits or words, with its unit; ordinals are none; "1 min 5 s" is one of 65 s."""
    text = unicodedata.normalize("NFKC", text) if not text.isascii() else text
    found: list[Quantity] = []
    end, previous = 0, 0.0
    for match in QUANTITY.finditer(text):
        quantity = _read(match)
        joins = (
            found
            and quantity.dimension == found[-1].dimension != ""
            and quantity.size < previous
            and 0 <= quantity.value * quantity.size < previous
            and match.start() - end <= JOIN
            and BETWEEN_PARTS.fullmatch(text, end, match.start())
        )
        if joins:
            last = found[-1]
            whole = last.value * last.size + quantity.value * quantity.size
            found[-1] = Quantity(whole / quantity.size, quantity.dimension, quantity.size)
        else:
            found.append(quantity)
        end, previous = match.end(), quantity.size
    return found


def _read(match: re.Match[str]) -> Quantity:
    if match["digits"] is not None:
        value = float(match["digits"].replace("−", "-").replace(",", ""))
    else:
        words = re.split(r"[\s-]+", match["words"].lower())
        value = float(sum(NUMBER_WORDS[word] for word in words))
    if match["minus"] is not None:
        value = -value
    if match["unit"] is None:
        return Quantity(value, "", 1.0)
    return Quantity(value, *NAMES[re.sub(r"\s+", " ", match["unit"].lower())])


@lru_cache(maxsize=4096)
def reference_quantity(reference: str) -> Quantity:
    """Raises ValueError when the reference is not one finite number."""
    found = quantities(reference)
    if len(found) != 1 or not is_same_number(found[0].value, found[0].value, 0.0):
        raise ValueError(f"the reference {reference!r} is not one number")
    return found[0]


def is_number(reply: str, reference: str, tolerance: float) -> bool:
    """The one number the reply names lies within `tolerance` (in the reference's unit) of the reference.

    A reply in a unit of another dimension is wrong; one without a unit is taken in the reference's. Where the reference has
    none, the number as written counts. Raises ValueError when the reference is not one number.
    """
    wanted = reference_quantity(reference)
    said: list[float] = []
    for quantity in quantities(reply):
        value = quantity.value
        if wanted.dimension and quantity.dimension:
            if quantity.dimension != wanted.dimension:
                return False
            value = value * quantity.size / wanted.size
        if not said or not is_same_number(value, said[0], 0.0):
            said.append(value)
    return len(said) == 1 and is_same_number(said[0], wanted.value, tolerance)

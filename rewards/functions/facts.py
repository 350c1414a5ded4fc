"""What is known of a clip, from the question's truth or from measurement, and whether a statement agrees with it.

Neighbours: `statements` and `perceptions` give the statements, `measure` the measurement, `grounding` counts.
Invariants: pure; True, False, or None for what these facts can't tell; tolerances are those of `perceptions`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rewards.functions.measure import GLIDE_SEMITONES, Measurement
from rewards.functions.perceptions import LEVEL_DB, PITCH_FACTOR_LOG, TIME_S, Claim, ClaimKind, agrees, known_values
from rewards.functions.statements import About, Statement

BEAT_SHARE = 0.1  # of the interval, for a beat stated in words or per minute
INTERVAL_SEMITONES = 1.0
JUST_NOTICEABLE = {
    About.LOUDER: 1.0,
    About.HIGHER: 0.5,
    About.LONGER: 0.03,
}  # dB, semitones, seconds: less is no difference
FIELDS = {
    ClaimKind.SOUND: "kind",
    ClaimKind.ONSET: "start_s",
    ClaimKind.LEVEL: "level_db",
    ClaimKind.PITCH: "pitch_hz",
    ClaimKind.LENGTH: "end_s",
}


@dataclass(frozen=True, slots=True)
class Facts:
    """Events in time order with what is known of each (`start_s`, `end_s`, `pitch_hz`, `level_db`, `kind`, `glide`; what is not
    known is left out); fewest, most: bounds of their number; onsets_s: attacks; soft: whether a missing pitch may still be there.
    """

    events: Sequence[Mapping[str, Any]]
    fewest: int
    most: int
    onsets_s: Sequence[float]
    seconds: float | None
    beat_s: float | None
    soft: bool

    @classmethod
    def of_truth(cls, truth: Mapping[str, Any]) -> Facts | None:
        """None when the truth has no events."""
        events = truth.get("events")
        if not isinstance(events, (list, tuple)):
            return None
        onsets = [event["start_s"] for event in events if "start_s" in event]
        return cls(events, len(events), len(events), onsets, truth.get("seconds"), truth.get("beat_s"), soft=False)

    @classmethod
    def of_measurement(cls, measured: Measurement) -> Facts:
        events = [
            {
                "start_s": event.start_s,
                "end_s": event.end_s,
                "level_db": event.level_db,
                "pitch_hz": event.pitch_hz,
                "glide": event.glide,
            }
            for event in measured.events
        ]
        starts = [event.start_s for event in measured.events]
        beat_s = starts[1] - starts[0] if measured.beat_s is None and len(starts) == 2 else measured.beat_s
        most = max(len(measured.onsets_s), len(events))
        return cls(events, measured.fewest, most, measured.onsets_s, measured.seconds, beat_s, soft=True)

    def has(self, field: str) -> bool:
        """Whether every event carries it."""
        return bool(self.events) and all(field in event for event in self.events)

    def values(self, field: str) -> list[Any]:
        return [event[field] for event in self.events if event.get(field) is not None]


def check_claim(claim: Claim, facts: Facts, task: str) -> bool | None:
    """As `perceptions.true_share` judges one claim, None where the facts lack what it is about."""
    if claim.kind is ClaimKind.BEAT:
        return None if facts.beat_s is None else agrees(claim, facts.beat_s)
    if not facts.has(FIELDS[claim.kind]) or (claim.kind is ClaimKind.LENGTH and not facts.has("start_s")):
        return None
    known = known_values(claim, {"events": facts.events, "beat_s": facts.beat_s}, task)
    if not 0 <= claim.index < len(known):
        return None if facts.soft and facts.fewest <= claim.index < facts.most else False
    if facts.soft and known[claim.index] is None:
        return None
    if facts.soft and claim.kind is ClaimKind.ONSET:
        return any(agrees(claim, onset) for onset in facts.onsets_s)
    return agrees(claim, known[claim.index])


def left_out(claim: Claim, facts: Facts, task: str) -> int:
    """How many elements the list that this claim opens is short of."""
    if not claim.listed or claim.index != 0 or not facts.has(FIELDS[claim.kind]):
        return 0
    known = known_values(claim, {"events": facts.events, "beat_s": facts.beat_s}, task)
    return max(0, min(len(known), facts.fewest if facts.soft else len(known)) - claim.listed)


def check_statement(statement: Statement, facts: Facts) -> bool | None:
    """Whether a free statement holds; None where the facts can't tell."""
    return _CHECKS[statement.about](statement, facts) if statement.about in _CHECKS else None


def _span(statement: Statement) -> tuple[float, float]:
    value = float(statement.value)
    return value, value if statement.to is None else statement.to


def _near(statement: Statement, known: float, tolerance: float) -> bool:
    low, high = _span(statement)
    return low - tolerance <= known <= high + tolerance


def _event(index: int, facts: Facts) -> Mapping[str, Any] | None:
    return facts.events[index] if -len(facts.events) <= index < len(facts.events) else None


def _of_events(field: str, close: Callable[[Statement, float], bool]) -> Callable[[Statement, Facts], bool | None]:
    """A check against the named event's value, against the place in a list as long as the events are, or against any event's."""

    def check(statement: Statement, facts: Facts) -> bool | None:
        in_list = bool(statement.listed) and statement.listed != len(facts.events)
        if statement.event is None or in_list:
            known = facts.values(field)
            return any(close(statement, value) for value in known) if known else _unknown(field, facts)
        event = _event(statement.event, facts)
        if event is None:
            return None if facts.soft and statement.event < facts.most else False
        value = event.get(field)
        return _unknown(field, facts) if value is None else close(statement, value)

    return check


def _unknown(field: str, facts: Facts) -> bool | None:
    """A stated pitch of a sound that is known to have none is false; a measurement may have missed it."""
    return False if facts.has(field) and not facts.soft else None


def _same_pitch(statement: Statement, known: float) -> bool:
    low, high = _span(statement)
    return low > 0 and math.log(low) - PITCH_FACTOR_LOG <= math.log(known) <= math.log(high) + PITCH_FACTOR_LOG


def _start(statement: Statement, facts: Facts) -> bool | None:
    by_event = _of_events("start_s", lambda s, known: _near(s, known, TIME_S))(statement, facts)
    if facts.soft and not by_event and statement.event is None:
        return any(_near(statement, onset, TIME_S) for onset in facts.onsets_s) if facts.onsets_s else None
    return by_event


def _end(statement: Statement, facts: Facts) -> bool | None:
    ends = facts.values("end_s") + ([facts.seconds] if facts.seconds else [])
    if statement.event is None and ends:
        return any(_near(statement, end, TIME_S) for end in ends)
    return _of_events("end_s", lambda s, known: _near(s, known, TIME_S))(statement, facts)


def _length(statement: Statement, facts: Facts) -> bool | None:
    if not (facts.has("start_s") and facts.has("end_s")):
        return None
    lengths = [event["end_s"] - event["start_s"] for event in facts.events]
    if statement.event is None or (statement.listed and statement.listed != len(lengths)):
        return any(_near(statement, length, TIME_S) for length in lengths)
    if _event(statement.event, facts) is None:
        return False
    return _near(statement, lengths[statement.event], TIME_S)


def _gap(statement: Statement, facts: Facts) -> bool | None:
    """Either from end to start or from start to start: prose does not say which."""
    if len(facts.events) < 2 or not (facts.has("start_s") and facts.has("end_s")):
        return None
    pairs = list(zip(facts.events[:-1], facts.events[1:], strict=True))
    gaps = [after["start_s"] - before[edge] for before, after in pairs for edge in ("start_s", "end_s")]
    return any(_near(statement, gap, TIME_S) for gap in gaps)


def _beat(statement: Statement, facts: Facts) -> bool | None:
    if facts.beat_s is None:
        return None
    return _near(statement, facts.beat_s, BEAT_SHARE * facts.beat_s)


def _count(statement: Statement, facts: Facts) -> bool | None:
    return facts.fewest <= int(statement.value) <= facts.most


def _clip(statement: Statement, facts: Facts) -> bool | None:
    return None if facts.seconds is None else _near(statement, facts.seconds, max(TIME_S, 0.05 * facts.seconds))


def _level(statement: Statement, known: float) -> bool:
    low, high = _span(statement)
    return low - LEVEL_DB <= known <= high + LEVEL_DB


def _pairs(values: Iterable[float]) -> list[float]:
    known = list(values)
    return [abs(a - b) for i, a in enumerate(known) for b in known[i + 1 :]]


def _level_step(statement: Statement, facts: Facts) -> bool | None:
    steps = _pairs(facts.values("level_db")) if facts.has("level_db") else []
    low, high = _span(statement)
    low, high = min(abs(low), abs(high)), max(abs(low), abs(high))
    return any(low - LEVEL_DB <= step <= high + LEVEL_DB for step in steps) if steps else None


def _interval(statement: Statement, facts: Facts) -> bool | None:
    steps = _pairs(12 * math.log2(value) for value in facts.values("pitch_hz"))
    return any(abs(step - float(statement.value)) <= INTERVAL_SEMITONES for step in steps) if steps else None


def _more(about: About, event: Mapping[str, Any]) -> float | None:
    """The property that a comparison is about, in the unit of JUST_NOTICEABLE."""
    if about is About.LOUDER:
        return event.get("level_db")
    if about is About.HIGHER:
        pitch = event.get("pitch_hz")
        return None if pitch is None else 12 * math.log2(pitch)
    if "start_s" not in event or "end_s" not in event:
        return None
    return event["end_s"] - event["start_s"]


def _compared(statement: Statement, facts: Facts) -> bool | None:
    """The named event against the other one, or against all others. `not louder` also holds where they are alike."""
    count = len(facts.events)
    if statement.event is None or count < 2 or not -count <= statement.event < count:
        return None
    values = [_more(statement.about, event) for event in facts.events]
    subject = statement.event % count
    others = [i for i in range(count) if i != subject] if statement.other is None else [statement.other]
    if any(not -count <= i < count or values[i] is None for i in [subject, *others]):
        return None
    margins = [float(values[subject] or 0.0) - float(values[i] or 0.0) for i in others]
    sign, least = float(statement.value), JUST_NOTICEABLE[statement.about]
    if statement.yes:
        return all(sign * margin >= least for margin in margins)
    return all(sign * margin <= least for margin in margins)


def _contour(statement: Statement, facts: Facts) -> bool | None:
    """Over the events' pitches where there are several, else, or for a named event, by the glide inside it."""
    pitches = facts.values("pitch_hz")
    event = facts.events[0] if len(facts.events) == 1 else None
    if statement.event is not None:
        event = _event(statement.event, facts)
    if event is not None:
        glide = event.get("glide")
        return None if glide is None else _direction([glide]) == statement.value
    if len(pitches) < 2:
        return None
    return _direction([12 * math.log2(b / a) for a, b in itertools.pairwise(pitches)]) == statement.value


def _direction(steps: Sequence[float]) -> str:
    """rising or falling when no step goes far the other way, steady when none goes far at all, else mixed."""
    if all(abs(step) < GLIDE_SEMITONES for step in steps) and abs(sum(steps)) < GLIDE_SEMITONES:
        return "steady"
    if min(steps) > -GLIDE_SEMITONES and sum(steps) > 0:
        return "rising"
    return "falling" if max(steps) < GLIDE_SEMITONES and sum(steps) < 0 else "mixed"


_CHECKS: dict[About, Callable[[Statement, Facts], bool | None]] = {
    About.PITCH: _of_events("pitch_hz", _same_pitch),
    About.INTERVAL: _interval,
    About.CONTOUR: _contour,
    About.BEAT: _beat,
    About.COUNT: _count,
    About.START: _start,
    About.END: _end,
    About.LENGTH: _length,
    About.GAP: _gap,
    About.CLIP: _clip,
    About.LEVEL: _of_events("level_db", _level),
    About.LEVEL_STEP: _level_step,
    About.LOUDER: _compared,
    About.HIGHER: _compared,
    About.LONGER: _compared,
}

"""What a reasoning says it heard, and how much of that is true.

The grammar is the one `orchestrator.datasets.acoustic_qa.chains` writes: `I hear a dog, then a violin.`, `Note 1 is about
440 Hz.`, `Events at 0.2 s, 0.7 s.` and so on; `So ...` is a conclusion, not a claim; other text states nothing.
Neighbours: the `evaluate` and `sft` stages report the true share. Invariants: pure; a list counts element by element, an
element it leaves out counts as one false claim, so that saying less is never more true.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

PITCH_FACTOR_LOG = 0.19  # natural log of the factor; one step of the pitch grid
LEVEL_DB = 3.01  # one grid step
TIME_S = 0.101  # one grid step

_NUMBER = r"[-−]?\d+(?:\.\d+)?"
_LIST = rf"({_NUMBER}\s*UNIT(?:\s*,\s*{_NUMBER}\s*UNIT)*)"


class ClaimKind(StrEnum):
    SOUND = "sound"  # value: kind of the event
    ONSET = "onset"  # value: seconds from the clip's start
    LEVEL = "level"  # value: dB relative to the loudest event
    PITCH = "pitch"  # value: Hz
    LENGTH = "length"  # value: seconds
    BEAT = "beat"  # value: seconds between beats


@dataclass(frozen=True, slots=True)
class Claim:
    """One stated perception. index: which event it is about, from 0; listed: elements of its list, 0 outside a list."""

    kind: ClaimKind
    index: int
    value: float | str
    listed: int = 0


_NUMBERED = {
    ClaimKind.LEVEL: re.compile(rf"level\s+(\d+)\s+is\s+(?:about\s+)?({_NUMBER})\s*db", re.IGNORECASE),
    ClaimKind.PITCH: re.compile(rf"note\s+(\d+)\s+is\s+(?:about\s+)?({_NUMBER})\s*hz", re.IGNORECASE),
    ClaimKind.LENGTH: re.compile(rf"sound\s+(\d+)\s+lasts\s+(?:about\s+)?({_NUMBER})\s*s", re.IGNORECASE),
}
_LISTED = {
    ClaimKind.ONSET: re.compile(r"events?\s+at\s+(?:about\s+)?" + _LIST.replace("UNIT", "s"), re.IGNORECASE),
    ClaimKind.PITCH: re.compile(r"notes?\s+of\s+(?:about\s+)?" + _LIST.replace("UNIT", "hz"), re.IGNORECASE),
}
_BEAT = re.compile(rf"(?:one|a)\s+beat\s+every\s+(?:about\s+)?({_NUMBER})\s*s", re.IGNORECASE)
_HEAR = re.compile(r"i\s+hear\s+(.+)", re.IGNORECASE | re.DOTALL)
_ARTICLE = re.compile(r"^(?:an?|the)\s+", re.IGNORECASE)
# A full stop ends a sentence unless a digit follows (0.2 s).
_SENTENCE_END = re.compile(r"[.!?;\n]+(?=\s|$)|\n")


def stated_claims(reasoning: str) -> list[Claim]:
    """Every perception the reasoning states, in order; sentences of another form state none."""
    return [claim for sentence in _SENTENCE_END.split(reasoning) for claim in _claims_of(sentence.strip())]


def true_share(reasoning: str, truth: Mapping[str, Any], task: str) -> tuple[int, int]:
    """(true, stated): how many claims hold against the question's `truth`, of how many.

    task: the question's task; only `order` counts equal neighbours one by one in `I hear ...`. (0, 0) when `truth` has no
    `events`: then nothing can be checked.
    """
    true = stated = 0
    if "events" not in truth:
        return true, stated
    for claim in stated_claims(reasoning):
        known = known_values(claim, truth, task)
        stated += 1
        true += 0 <= claim.index < len(known) and agrees(claim, known[claim.index])
        if claim.listed and claim.index == 0:
            stated += max(0, len(known) - claim.listed)
    return true, stated


def _claims_of(sentence: str) -> list[Claim]:
    for kind, pattern in _NUMBERED.items():
        if match := pattern.fullmatch(sentence):
            return [Claim(kind, int(match[1]) - 1, _value(match[2]))]
    for kind, pattern in _LISTED.items():
        if match := pattern.fullmatch(sentence):
            values = [_value(number) for number in re.findall(_NUMBER, match[1])]
            return [Claim(kind, i, value, listed=len(values)) for i, value in enumerate(values)]
    if match := _BEAT.fullmatch(sentence):
        return [Claim(ClaimKind.BEAT, 0, _value(match[1]))]
    if match := _HEAR.fullmatch(sentence):
        heard = [_ARTICLE.sub("", part.strip()).casefold() for part in re.split(r",?\s+then\s+", match[1])]
        return [Claim(ClaimKind.SOUND, i, kind, listed=len(heard)) for i, kind in enumerate(heard)]
    return []


def _value(number: str) -> float:
    return float(number.replace("−", "-"))


def known_values(claim: Claim, truth: Mapping[str, Any], task: str) -> Sequence[float | str | None]:
    """What a claim of this kind is about, event by event; None where an event has no such property."""
    events = truth["events"]
    if claim.kind is ClaimKind.SOUND:
        kinds = [event["kind"].casefold() for event in events]
        return kinds if task == "order" else [k for i, k in enumerate(kinds) if i == 0 or k != kinds[i - 1]]
    if claim.kind is ClaimKind.ONSET:
        return [event["start_s"] for event in events]
    if claim.kind is ClaimKind.LEVEL:
        return [event.get("level_db") for event in events]
    if claim.kind is ClaimKind.PITCH:
        return [event.get("pitch_hz") for event in events]
    if claim.kind is ClaimKind.LENGTH:
        return [event["end_s"] - event["start_s"] for event in events]
    return [truth.get("beat_s")]


def agrees(claim: Claim, known: float | str | None) -> bool:
    if known is None or isinstance(known, str) or isinstance(claim.value, str):
        return known is not None and claim.value == known
    if claim.kind is ClaimKind.PITCH:
        return claim.value > 0 and known > 0 and abs(math.log(claim.value / known)) <= PITCH_FACTOR_LOG
    return abs(claim.value - known) <= (LEVEL_DB if claim.kind is ClaimKind.LEVEL else TIME_S)

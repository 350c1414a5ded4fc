"""Does the reasoning say what is heard, and is it true?

    statement share = (sentences with a statement + sentences with perceptual words only, a quarter a word, two at most)
                      / sentences that are no conclusion                     a sentence said before adds nothing
    true share      = true statements / statements that could be checked     `unchecked` where none could
    score           = min(1, statement share / `share`) * true share

Neighbours: `perceptions` and `statements` read the reasoning, `facts` checks it, `measure` listens to the clip.
Invariants: nothing is measured unless a statement needs it; a question with nothing to check against is invalid, never 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from typing import Any

from rewards.functions import measure
from rewards.functions.facts import Facts, check_claim, check_statement, left_out
from rewards.functions.lexicon import perceptual_terms
from rewards.functions.perceptions import Claim, ClaimKind, stated_claims
from rewards.functions.prose import is_conclusion, sentences, unquoted
from rewards.functions.statements import About, Statement, free_statements
from rewards.messages import Clip, Sample
from rewards.registry import reward

SOURCES = ("truth", "clip", "either")
MEASURED_CLIPS = 512  # kept a process; the samples of one question share theirs
WORD_WEIGHT, MOST_WORDS = 0.25, 2
STUFFED = 0.6  # a sentence made of perceptual words to this share is a list of words, not a perception


@dataclass(slots=True)
class Tally:
    """stated: statements; checked: those that could be told; true: those that hold; weight: of the sentences so far."""

    stated: int = 0
    checked: int = 0
    true: int = 0
    terms: int = 0
    sentences: int = 0
    weight: float = 0.0
    said: set[Any] = field(default_factory=set)


def prepare_scoring() -> None:
    """What a scoring process does on starting, so that the first sample is as quick as the others."""
    import_module("rollout.audio.decode")
    measure.prepare()


def check_grounding(
    against: str = "either", share: float = 0.5, unchecked: float = 0.5, terms: Sequence[str] = ()
) -> None:
    """Raises ValueError for an unknown source of truth or numbers outside 0..1 (share: above 0)."""
    if against not in SOURCES:
        raise ValueError(f"against is one of {', '.join(SOURCES)}, not {against!r}")
    if not 0 < share <= 1 or not 0 <= unchecked <= 1:
        raise ValueError(f"share lies above 0 and at most 1, unchecked in 0..1; got {share} and {unchecked}")
    if isinstance(terms, str) or not all(isinstance(term, str) and term.strip() for term in terms):
        raise ValueError(f"terms is a list of words, got {terms!r}")


@reward("grounding", check=check_grounding)
def grounding(
    sample: Sample,
    *,
    against: str = "either",
    share: float = 0.5,
    unchecked: float = 0.5,
    terms: Sequence[str] = (),
) -> dict[str, float]:
    """0..1 as above, with the parts `stated`, `checked`, `true`, `perceptual_terms`, `statement_share`.

    against: check with the question's truth, with the clip, or with the clip where the truth can't tell; terms: perceptual words
    beside those of `data/perceptual_terms.json`. Raises ValueError when the question has neither, AudioError for a bad clip.
    """
    known = Known(sample, against)
    tally = Tally()
    for sentence in sentences(unquoted(sample.reasoning)):
        if not is_conclusion(sentence):
            _add(tally, sentence, known, tuple(terms))
    statement_share = tally.weight / tally.sentences if tally.sentences else 0.0
    true_part = tally.true / tally.checked if tally.checked else unchecked
    return {
        "score": min(1.0, statement_share / share) * true_part,
        "stated": float(tally.stated),
        "checked": float(tally.checked),
        "true": float(tally.true),
        "perceptual_terms": float(tally.terms),
        "statement_share": statement_share,
    }


class Known:
    """Truth and clips of one sample, asked in the order that `against` says; clips are measured when they are asked."""

    def __init__(self, sample: Sample, against: str) -> None:
        self.task = sample.question.get("task", "")
        self.truth = Facts.of_truth(sample.truth) if against != "clip" else None
        self.clips = sample.clips if against != "truth" else ()
        if self.truth is None and not self.clips:
            wanted = {"truth": "truth with events", "clip": "clip"}.get(against, "truth with events or a clip")
            raise ValueError(f"the question has no {wanted} to check the reasoning against")

    def claim(self, claim: Claim) -> tuple[bool | None, int]:
        """Whether it holds, and how many elements its list leaves out."""
        if self.truth is not None:
            holds = check_claim(claim, self.truth, self.task)
            pitchless = claim.kind is ClaimKind.PITCH and not self.truth.values("pitch_hz")
            if holds or (holds is False and not (pitchless and self.clips)):
                return holds, left_out(claim, self.truth, self.task)
        if claim.kind is ClaimKind.SOUND:
            return None, 0
        measured = [
            (check_claim(claim, facts, self.task), left_out(claim, facts, self.task)) for facts in self._measured()
        ]
        return _best([holds for holds, _ in measured]), min((short for _, short in measured), default=0)

    def statement(self, statement: Statement) -> bool | None:
        if self.truth is not None:
            holds = check_statement(statement, self.truth)
            pitchless = statement.about is About.PITCH and not self.truth.values("pitch_hz")
            if holds or (holds is False and not (pitchless and self.clips)):
                return holds
        return _best([check_statement(statement, facts) for facts in self._measured()])

    def _measured(self) -> list[Facts]:
        return [_facts_of(clip) for clip in self.clips]


def _best(answers: Sequence[bool | None]) -> bool | None:
    """A statement about one of several clips holds when it holds for any."""
    return True if any(answers) else False if False in answers else None


@lru_cache(maxsize=MEASURED_CLIPS)
def _facts_of(clip: Clip) -> Facts:
    return Facts.of_measurement(measure.measure(clip.waveform(measure.RATE)))


def _add(tally: Tally, sentence: str, known: Known, terms: tuple[str, ...]) -> None:
    """Counts one sentence."""
    found = perceptual_terms(sentence, terms)
    tally.terms += len(found)
    tally.sentences += 1
    if sentence in tally.said:
        return
    tally.said.add(sentence)
    claims = stated_claims(sentence)
    if any(claim.kind is not ClaimKind.SOUND for claim in claims):
        stated = _add_claims(tally, claims, known)
    else:  # `I hear a tone around 440 Hz` says more than a name
        stated = _add_statements(tally, sentence, known) or _add_claims(tally, claims, known)
    if stated:
        tally.weight += 1.0
    elif len(found) < STUFFED * len(sentence.split()):
        tally.weight += WORD_WEIGHT * min(MOST_WORDS, len(set(found)))


def _add_claims(tally: Tally, claims: Sequence[Claim], known: Known) -> bool:
    """Whether any of them states something; a named source that nothing can confirm does not."""
    stated = False
    for claim in claims:
        holds, short = known.claim(claim)
        if claim.kind is ClaimKind.SOUND and holds is None:
            continue
        if not claim.listed and claim in tally.said:
            continue
        tally.said.add(claim)
        stated = True
        tally.stated += 1 + short
        tally.checked += (holds is not None) + short
        tally.true += holds is True
    return stated


def _add_statements(tally: Tally, sentence: str, known: Known) -> bool:
    statements = free_statements(sentence)
    for statement in statements:
        if statement in tally.said:
            continue
        tally.said.add(statement)
        holds = known.statement(statement)
        tally.stated += 1
        tally.checked += holds is not None
        tally.true += holds is True
    return bool(statements)

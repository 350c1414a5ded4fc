"""The reward as a weighted sum of its terms, by modality.

Neighbours: `scorer` composes each sample's components; `orchestrator` checks a run's specification before anything starts.
Invariants: pure; a term counts for its own modality or for any; the sum is not normalised (Step-Audio-R1, section 4.2:
text 1.0 * answer, audio 0.8 * answer + 0.2 * think_present).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from rewards.errors import RewardError
from rewards.messages import RewardSpec, RewardTerm

MODALITIES = ("audio", "text")
ANY = "any"
MIN_MEMORY_MB = 64  # below this the interpreter of a scoring process does not start


def modality_of(question: Mapping[str, Any]) -> str:
    """`audio` when the question has a recording, else `text`; question: `dataclasses.asdict` of a Question."""
    return "audio" if question.get("audio") else "text"


def applicable(terms: Iterable[RewardTerm], modality: str) -> tuple[RewardTerm, ...]:
    """The terms that count for a modality, in their order. Raises RewardError for an unknown modality."""
    if modality not in MODALITIES:
        raise RewardError(f"unknown modality {modality!r}; one of {', '.join(MODALITIES)}")
    return tuple(term for term in terms if term.modality in (modality, ANY))


def compose(spec: RewardSpec, components: Mapping[str, float], modality: str) -> float:
    """Sum of weight * component over the modality's terms.

    Raises RewardError when no term counts for the modality, or when a component is missing or not finite.
    """
    terms = applicable(spec.terms, modality)
    if not terms:
        raise RewardError(
            f"no reward term counts for {modality} questions; add one with modality {modality!r} or {ANY!r}"
        )
    missing = [term.name for term in terms if term.name not in components]
    if missing:
        raise RewardError(
            f"the {modality} reward has no component {', '.join(missing)}; score every term before composing"
        )
    total = math.fsum(term.weight * components[term.name] for term in terms)
    if not math.isfinite(total):
        raise RewardError(f"the {modality} reward is {total!r}; its components are {dict(components)!r}")
    return total


def check_spec(spec: RewardSpec) -> None:
    """Raises RewardError for the first thing that cannot work, naming the term."""
    if not spec.terms:
        raise RewardError("the reward has no term; name at least one reward function")
    if not spec.timeout_s > 0 or not math.isfinite(spec.timeout_s):
        raise RewardError(f"the reward's time limit must be above 0 seconds, got {spec.timeout_s!r}")
    if spec.memory_mb < MIN_MEMORY_MB:
        raise RewardError(f"the reward's memory limit must be at least {MIN_MEMORY_MB} MB, got {spec.memory_mb!r}")
    if spec.workers < 1:
        raise RewardError(f"the reward needs at least 1 worker, got {spec.workers!r}")
    for term in spec.terms:
        if term.modality not in (*MODALITIES, ANY):
            known = ", ".join((*MODALITIES, ANY))
            raise RewardError(f"reward term {term.name!r} has the unknown modality {term.modality!r}; one of {known}")
        if not math.isfinite(term.weight):
            raise RewardError(f"reward term {term.name!r} has the weight {term.weight!r}; it must be a finite number")
    for modality in MODALITIES:
        counts = Counter(term.name for term in applicable(spec.terms, modality))
        twice = [name for name, count in counts.items() if count > 1]
        if twice:
            raise RewardError(f"reward term {twice[0]!r} counts twice for {modality} questions; keep one of them")

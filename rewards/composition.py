"""The reward as a weighted sum of its terms, by modality and data set.

Neighbours: `scorer` composes each sample's components; `orchestrator` checks a run's specification before anything starts.
Invariants: pure; a term counts for its own modality or for any; a term of a data set stands in for the one of its name without;
the sum is not normalised (Step-Audio-R1, section 4.2: text 1.0 * answer, audio 0.8 * answer + 0.2 * think_present).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from rewards.clips import recordings
from rewards.errors import RewardError
from rewards.messages import JointTerm, RewardSpec, RewardTerm

MODALITIES = ("audio", "text")
ANY = "any"
JOINTS = ("product", "least", "mean")
MIN_MEMORY_MB = 64  # below this the interpreter of a scoring process does not start


def modality_of(question: Mapping[str, Any]) -> str:
    """`audio` when the question or an earlier turn has a recording, else `text`; question: `dataclasses.asdict` of a Question."""
    return "audio" if next(recordings(question), None) else "text"


def applicable(terms: Iterable[RewardTerm], modality: str, dataset: str = "") -> tuple[RewardTerm, ...]:
    """The terms that count for a modality and data set, in their order. Raises RewardError for an unknown modality."""
    if modality not in MODALITIES:
        raise RewardError(f"unknown modality {modality!r}; one of {', '.join(MODALITIES)}")
    chosen = [term for term in terms if term.modality in (modality, ANY) and term.dataset in ("", dataset)]
    special = {term.name for term in chosen if term.dataset}
    return tuple(term for term in chosen if term.dataset or term.name not in special)


def compose(spec: RewardSpec, components: Mapping[str, float], modality: str, dataset: str = "") -> float:
    """Sum of weight * component over the terms that count, joint terms included.

    Raises RewardError when no term counts, or when a component is missing or the sum not finite.
    """
    terms = applicable(spec.terms, modality, dataset)
    if not terms:
        raise RewardError(
            f"no reward term counts for {modality} questions; add one with modality {modality!r} or {ANY!r}"
        )
    missing = [term.name for term in terms if term.name not in components]
    if missing:
        raise RewardError(
            f"the {modality} reward has no component {', '.join(missing)}; score every term before composing"
        )
    joint = joint_components(spec, components, modality)
    total = math.fsum(
        [term.weight * components[term.name] for term in terms]
        + [term.weight * joint[term.name] for term in spec.joint if term.name in joint]
    )
    if not math.isfinite(total):
        raise RewardError(f"the {modality} reward is {total!r}; its components are {dict(components)!r}")
    return total


def joint_components(spec: RewardSpec, components: Mapping[str, float], modality: str) -> dict[str, float]:
    """Components of the joint terms that count for a modality, by name. Raises RewardError when one lacks a part."""
    values: dict[str, float] = {}
    for term in spec.joint:
        if term.modality not in (modality, ANY):
            continue
        missing = [name for name in term.of if name not in components]
        if missing:
            raise RewardError(f"the joint term {term.name!r} has no component {', '.join(missing)} to be made of")
        values[term.name] = _joined(term, [components[name] for name in term.of])
    return values


def _joined(term: JointTerm, parts: list[float]) -> float:
    if term.how == "product":
        return math.prod(parts)
    return min(parts) if term.how == "least" else math.fsum(parts) / len(parts)


def check_spec(spec: RewardSpec) -> None:
    """Raises RewardError for the first thing that cannot work, naming the term."""
    if not spec.terms:
        raise RewardError("the reward has no term; name at least one reward function")
    _check_limits(spec)
    every: tuple[RewardTerm | JointTerm, ...] = (*spec.terms, *spec.joint)
    for term in every:
        if term.modality not in (*MODALITIES, ANY):
            known = ", ".join((*MODALITIES, ANY))
            raise RewardError(f"reward term {term.name!r} has the unknown modality {term.modality!r}; one of {known}")
        if not math.isfinite(term.weight):
            raise RewardError(f"reward term {term.name!r} has the weight {term.weight!r}; it must be a finite number")
    for modality in MODALITIES:
        _check_names(spec, modality)


def _check_limits(spec: RewardSpec) -> None:
    if not spec.timeout_s > 0 or not math.isfinite(spec.timeout_s):
        raise RewardError(f"the reward's time limit must be above 0 seconds, got {spec.timeout_s!r}")
    if not spec.cpu_s >= 0 or not math.isfinite(spec.cpu_s):
        raise RewardError(f"the reward's limit of CPU time must be 0 (as the time limit) or more, got {spec.cpu_s!r}")
    if spec.memory_mb < MIN_MEMORY_MB:
        raise RewardError(f"the reward's memory limit must be at least {MIN_MEMORY_MB} MB, got {spec.memory_mb!r}")
    if spec.workers < 1:
        raise RewardError(f"the reward needs at least 1 worker, got {spec.workers!r}")
    for name, value, least in (("open_files", spec.open_files, 16), ("threads", spec.threads, 1)):
        if value < least:
            raise RewardError(f"the reward's limit {name} must be at least {least}, got {value!r}")


def _check_names(spec: RewardSpec, modality: str) -> None:
    """A component has one meaning, and a joint term is made of plain terms that are there."""
    counts = Counter((term.name, term.dataset) for term in spec.terms if term.modality in (modality, ANY))
    names = {name for name, _ in counts}
    twice = [name for (name, _), count in counts.items() if count > 1]
    joint = Counter(term.name for term in spec.joint if term.modality in (modality, ANY))
    twice += [name for name, count in joint.items() if count > 1 or name in names]
    if twice:
        raise RewardError(f"reward term {twice[0]!r} counts twice for {modality} questions; keep one of them")
    everywhere = {name for name, dataset in counts if not dataset}
    for made in spec.joint:
        if made.modality not in (modality, ANY):
            continue
        if made.how not in JOINTS:
            raise RewardError(f"joint term {made.name!r}: unknown way {made.how!r}; one of {', '.join(JOINTS)}")
        absent = [name for name in made.of if name not in everywhere]
        if absent or len(made.of) < 2:
            missing = f"{absent[0]!r} is no term of {modality} questions" if absent else "it needs two terms or more"
            raise RewardError(f"joint term {made.name!r}: {missing}; terms: {', '.join(sorted(everywhere))}")

"""Samples in, verdicts out, in this process's sandbox: the reward service without Ray.

Neighbours: `service` runs one of these in each of its actors; tests and tools use it directly.
Invariants: order is kept; one verdict a sample; a verdict is valid only if every term that counts for it gave a finite score.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rewards.composition import applicable, check_spec, compose, modality_of
from rewards.errors import RewardError
from rewards.messages import RewardSpec, Sample, Verdict
from rewards.registry import ResolvedTerm, resolve
from rewards.sample_wire import encode_sample
from rewards.sandbox import Sandbox
from rewards.sandbox_wire import Limits, Outcome, Unit


@dataclass(frozen=True, slots=True)
class ResolvedReward:
    """A specification with every term pinned (same order as spec.terms), and where modules are looked for."""

    spec: RewardSpec
    terms: tuple[ResolvedTerm, ...]
    sys_path: tuple[str, ...]

    @property
    def versions(self) -> dict[str, str]:
        """Content hash by reward name; a name used in several terms with different parameters is followed by its modality."""
        found: dict[str, str] = {}
        for term, resolved in zip(self.spec.terms, self.terms, strict=True):
            key = (
                term.name
                if found.get(term.name, resolved.version) == resolved.version
                else f"{term.name}/{term.modality}"
            )
            found[key] = resolved.version
        return found


def resolve_reward(spec: RewardSpec) -> ResolvedReward:
    """Raises RewardError for a specification that can't work: unknown name, bad parameter, bad limit."""
    check_spec(spec)
    return ResolvedReward(spec, tuple(resolve(term) for term in spec.terms), tuple(path for path in sys.path if path))


class Scorer:
    """Scores with a specification in a killable process. Raises RewardError for one that can't work."""

    def __init__(self, spec: RewardSpec | ResolvedReward) -> None:
        self.reward = spec if isinstance(spec, ResolvedReward) else resolve_reward(spec)
        self.spec = self.reward.spec
        self.sandbox = Sandbox(
            self.reward.terms,
            limits=Limits(
                self.spec.timeout_s, self.spec.cpu_s, self.spec.memory_mb, self.spec.open_files, self.spec.threads
            ),
            sys_path=self.reward.sys_path,
        )
        self._terms = {
            modality: tuple(self.spec.terms.index(term) for term in applicable(self.spec.terms, modality))
            for modality in ("audio", "text")
        }

    def start(self) -> None:
        """Starts the process, which loads every function. Raises RewardError when one can't be loaded."""
        self.sandbox.start()

    def close(self) -> None:
        self.sandbox.close()

    def __enter__(self) -> Scorer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def score(self, samples: Sequence[Sample]) -> list[Verdict]:
        """One verdict a sample, in order. Raises RewardError only when scoring processes can't be kept running."""
        lines = [encode_sample(sample) for sample in samples]
        modalities = [modality_of(sample.question) for sample in samples]
        units = [Unit(i, term) for i, modality in enumerate(modalities) for term in self._terms[modality]]
        outcomes = iter(self.sandbox.score(lines, units))
        return [self._verdict(modality, [next(outcomes) for _ in self._terms[modality]]) for modality in modalities]

    def _verdict(self, modality: str, outcomes: Sequence[Outcome]) -> Verdict:
        names = [self.spec.terms[term].name for term in self._terms[modality]]
        components = {
            name: outcome.score for name, outcome in zip(names, outcomes, strict=True) if outcome.score is not None
        }
        reasons = [outcome.reason for outcome in outcomes if outcome.score is None]
        if reasons:
            return Verdict.invalid("; ".join(reasons), components)
        try:
            return Verdict(valid=True, score=compose(self.spec, components, modality), components=components)
        except RewardError as error:
            return Verdict.invalid(str(error), components)

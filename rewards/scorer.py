"""Samples in, verdicts out, in this process's sandboxes: the reward service without Ray.

Neighbours: `term_runner` runs the functions, `work` plans and composes; `service` does the same with runners in Ray actors.
Invariants: order is kept; one verdict a sample; a verdict is valid only if every term that counts for it gave a finite score.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rewards.assembly import Assembler
from rewards.bundle_files import BundleCopy, copy_of
from rewards.composition import check_spec
from rewards.messages import RewardSpec, Sample, Verdict
from rewards.registry import ResolvedTerm, resolve
from rewards.sandbox import Sandbox
from rewards.term_runner import TermRunner
from rewards.work import CACHED_ABOVE_S, LARGEST_PART, Planner, Work

if TYPE_CHECKING:
    from rewards.cache import VerdictCache
    from rewards.published import PublishedStore


@dataclass(frozen=True, slots=True)
class ResolvedReward:
    """A specification with every term pinned (same order as spec.terms), where modules are looked for, and what published terms
    run, for machines that have not resolved them."""

    spec: RewardSpec
    terms: tuple[ResolvedTerm, ...]
    sys_path: tuple[str, ...]
    bundles: tuple[BundleCopy, ...] = ()

    @property
    def versions(self) -> dict[str, str]:
        """Content hash by reward name; a name used in several terms with different versions is followed by what the term is for:
        its data set, else its modality."""
        found: dict[str, str] = {}
        for term, resolved in zip(self.spec.terms, self.terms, strict=True):
            taken = found.get(term.name, resolved.version) != resolved.version
            found[f"{term.name}/{term.dataset or term.modality}" if taken else term.name] = resolved.version
        return found


def resolve_reward(spec: RewardSpec, store: PublishedStore | None = None, *, resumed: bool = False) -> ResolvedReward:
    """store: where versions that are not installed are looked up; resumed: retired ones may be used.

    Raises RewardError for a specification that can't work: unknown name or version, bad parameter, bad limit.
    """
    check_spec(spec)
    terms = tuple(resolve(term, store, resumed=resumed) for term in spec.terms)
    bundles = tuple({copy.hash: copy for copy in map(copy_of, terms) if copy is not None}.values())
    return ResolvedReward(spec, terms, tuple(path for path in sys.path if path), bundles)


class Scorer:
    """Scores with a specification in killable processes; cache: where outcomes are kept, for functions that take
    `cached_above_s` or more. Raises RewardError for a specification that can't work. Use from one thread."""

    def __init__(
        self,
        spec: RewardSpec | ResolvedReward,
        *,
        cache: VerdictCache | None = None,
        cached_above_s: float = CACHED_ABOVE_S,
    ) -> None:
        self.reward = spec if isinstance(spec, ResolvedReward) else resolve_reward(spec)
        self.spec = self.reward.spec
        self.runner = TermRunner(dict(enumerate(self.reward.terms)), self.spec, self.reward.sys_path)
        self._planner = Planner(Assembler(self.spec), self.reward.terms, cache, cached_above_s)

    @property
    def versions(self) -> dict[str, str]:
        return self.reward.versions

    @property
    def sandbox(self) -> Sandbox:
        """The first sandbox of a started scorer; the only one unless functions differ in network or secrets."""
        return self.runner.sandboxes[0]

    def start(self) -> None:
        """Starts the processes, which load every function. Raises RewardError when one can't be loaded."""
        self.runner.start()

    def close(self) -> None:
        self.runner.close()

    def __enter__(self) -> Scorer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def score(self, samples: Sequence[Sample]) -> list[Verdict]:
        """One verdict a sample, in order. Raises RewardError only when scoring processes can't be kept running."""
        verdicts: list[Verdict] = []
        for start in range(0, len(samples), LARGEST_PART):
            work = Work(self._planner, samples[start : start + LARGEST_PART])
            for task in work.tasks:
                work.settle(task, self.runner.score(task.job))
            verdicts += work.verdicts()
        return verdicts

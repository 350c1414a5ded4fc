"""Samples and sandboxes for the sandbox tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rewards.messages import RewardTerm, Sample
from rewards.registry import resolve
from rewards.sample_wire import encode_sample
from rewards.sandbox import Sandbox
from rewards.sandbox_wire import Limits, Outcome, Unit

LIMIT_S = 1.0
MEMORY_MB = 256


def sample(deed: str, number: int = 0) -> Sample:
    """One whose prompt tells the function what to do."""
    question = {
        "prompt": deed, "answer": "violin", "answer_kind": "choice", "choices": ["dog", "violin"], "tolerance": 0.0, "audio": []
    }  # fmt: skip
    return Sample(f"t/{number}", question, "violin", "", "violin", False, True, 1, 0)


class Room:
    """A started sandbox that scores deeds."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox

    def score(self, deeds: Sequence[str]) -> list[Outcome]:
        """Every deed by every term, sample by sample."""
        lines = [encode_sample(sample(deed, i)) for i, deed in enumerate(deeds)]
        units = [Unit(i, term) for i in range(len(deeds)) for term in range(len(self.sandbox.terms))]
        return self.sandbox.score(lines, units)


@contextmanager
def room(
    *names: str,
    environment: Mapping[str, str] | None = None,
    network: bool = False,
    parameters: Mapping[str, Any] | None = None,
    **limits: Any,
) -> Iterator[Room]:
    """A sandbox with these functions."""
    terms = [resolve(RewardTerm(name, 1.0, "any", dict(parameters or {}))) for name in names]
    sandbox = Sandbox(
        terms,
        limits=Limits(**{"timeout_s": LIMIT_S, "memory_mb": MEMORY_MB} | limits),
        sys_path=[path for path in sys.path if path],
        environment=environment or {},
        network=network,
    )
    try:
        sandbox.start()
        yield Room(sandbox)
    finally:
        sandbox.close()

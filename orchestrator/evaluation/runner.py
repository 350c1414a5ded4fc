"""Asks a model every question of an evaluation, chunk by chunk, and keeps what is done.

Neighbours: `session` answers (engines and rewards), `chunks` keeps, `report` makes figures of what comes back. Invariants: a chunk on
disk is not asked again; every question keeps its own seed, whatever chunk it is in; order is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator import chaos
from orchestrator.evaluation.chunks import ChunkStore
from rewards import StoredTrajectory
from rollout import Question, SamplingSpec


class Answerer(Protocol):
    """A model with its rewards. Outer index: question; inner: its samples."""

    def answer(
        self, questions: Sequence[Question], spec: SamplingSpec, prefix: str, advance: Callable[..., None] | None
    ) -> list[list[StoredTrajectory]]: ...


@dataclass(frozen=True, slots=True)
class Pass:
    """One way of asking: all questions with one sampling spec. name: of its chunks on disk."""

    name: str
    questions: Sequence[Question]
    spec: SamplingSpec


def standard_passes(
    questions: Sequence[Question], *, samples: int, temperature: float, max_new_tokens: int, seed: int
) -> list[Pass]:
    """`samples` responses a question at `temperature`, and a greedy one."""
    return [
        Pass("sampled", questions, SamplingSpec(samples, temperature, max_new_tokens, seed)),
        Pass("greedy", questions, SamplingSpec(1, 0.0, max_new_tokens, seed)),
    ]


def missing(passes: Sequence[Pass], store: ChunkStore, chunk: int) -> int:
    """Questions that are still to be asked, over all passes."""
    return sum(
        len(one.questions[start : start + chunk])
        for one in passes
        for number, start in _chunks(one, chunk)
        if not store.has(one.name, number)
    )


def collect(
    answerer: Answerer,
    passes: Sequence[Pass],
    store: ChunkStore,
    chunk: int,
    advance: Callable[..., None] | None = None,
    *,
    on_kept: Callable[[], object] | None = None,
) -> dict[str, list[StoredTrajectory]]:
    """Every trajectory of every pass, by pass, in the questions' order; asks only what `store` lacks. on_kept: after each chunk."""
    for one in passes:
        for number, start in _chunks(one, chunk):
            if not store.has(one.name, number):
                asked = one.questions[start : start + chunk]
                groups = answerer.answer(asked, one.spec, f"eval/{one.name}/{number}", advance)
                store.write(one.name, number, [trajectory for group in groups for trajectory in group])
                if on_kept is not None:
                    on_kept()
                chaos.point(f"eval:{one.name}:{number}")
    return stored(passes, store, chunk)


def stored(passes: Sequence[Pass], store: ChunkStore, chunk: int) -> dict[str, list[StoredTrajectory]]:
    """What is on disk of finished passes, by pass, in the questions' order."""
    return {
        one.name: [trajectory for number, _ in _chunks(one, chunk) for trajectory in store.read(one.name, number)]
        for one in passes
    }


def _chunks(one: Pass, chunk: int) -> Iterator[tuple[int, int]]:
    """(number, first question) of each chunk of a pass."""
    return enumerate(range(0, len(one.questions), chunk))

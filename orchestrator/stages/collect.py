"""Sampling many questions in chunks that are kept on disk, so that a stage that is cut off asks only those of one chunk twice.

Neighbours: `evaluate`, `select`, `perceive`, `distil`, `align` sample through here. Invariants: a chunk is written whole, then named by
all that decides its content (questions, sampling, weights version, judging); what is read back equals what was sampled.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator import chaos
from orchestrator.datasets.identity import prompt_digest
from orchestrator.manifest import digest_of
from orchestrator.stages.scoring import Scored, attach, samples_of
from rewards import Verdict
from rollout import Question, SamplingSpec, Trajectory

if TYPE_CHECKING:
    from orchestrator.parts import Judge, Parts
    from orchestrator.progress import Advance

CHUNK_QUESTIONS = 256


@dataclass(slots=True)
class Collector:
    """Samples questions with the weights that the engines hold and scores them with `judge`.

    folder: where chunks are kept; version: of the weights; invalid: verdicts of all that was asked so far, for a stage's counts.
    """

    parts: Parts
    judge: Judge
    folder: Path
    version: int
    chunk: int = CHUNK_QUESTIONS
    invalid: int = field(default=0, init=False)

    def ask(
        self, questions: Sequence[Question], spec: SamplingSpec, prefix: str, advance: Advance | None = None
    ) -> list[list[Scored]]:
        """Outer index: question, in order; inner: its samples. Raises RunPaused when a reward function fails on too many."""
        self.parts.prompts(questions)  # clips that are not encoded yet are, all at once
        groups: list[list[Scored]] = []
        for number, start in enumerate(range(0, len(questions), self.chunk)):
            part = questions[start : start + self.chunk]
            path = self._path(part, spec, prefix, number)
            if path.is_file():
                groups += self._read(path, part)
                if advance is not None:
                    advance(len(part))
                continue
            sampled = self.parts.rollout(part, spec, prefix, advance)
            scored = self.judge.score(part, sampled, prefix)
            _write(path, scored)
            chaos.point(f"chunk:{prefix}:{number}")
            groups += scored
        self.invalid += sum(not scored.verdict.valid for group in groups for scored in group)
        return groups

    def _path(self, questions: Sequence[Question], spec: SamplingSpec, prefix: str, number: int) -> Path:
        key = digest_of(
            [
                [[q.id, prompt_digest(q)] for q in questions],
                [spec.samples, spec.temperature, spec.max_new_tokens, spec.seed],
                self.version,
                self.judge.versions,
            ]
        )
        return self.folder / f"{prefix.replace('/', '.')}.{number:04d}.{key[:16]}.jsonl.gz"

    def _read(self, path: Path, questions: Sequence[Question]) -> list[list[Scored]]:
        groups: dict[str, list[tuple[Trajectory, Verdict]]] = {question.id: [] for question in questions}
        for line in gzip.decompress(path.read_bytes()).decode().splitlines():
            record = json.loads(line)
            trajectory = Trajectory.from_json(record["trajectory"])
            groups[trajectory.question_id].append((trajectory, Verdict.from_json(record["verdict"])))
        out = []
        for question in questions:
            trajectories = [trajectory for trajectory, _ in groups[question.id]]
            asked = [question] * len(trajectories)
            samples = samples_of(asked, trajectories, self.parts.think)
            out.append(attach(asked, trajectories, samples, [verdict for _, verdict in groups[question.id]]))
        return out


def _write(path: Path, groups: Sequence[Sequence[Scored]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"trajectory": s.trajectory.to_json(), "verdict": s.verdict.to_json()})
        for group in groups
        for s in group
    ]
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(gzip.compress("\n".join(lines).encode(), compresslevel=3, mtime=0))
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)

"""Builds the acoustic QA data set: packages, bank, scenes, questions, clips, manifest.

Neighbours: `sources` and `bank` give the sounds, `scenes` and `questions` what is asked, `render` the clips; `data_stage` and
`mgrd data build acoustic_qa` call `build_acoustic_qa`.
Invariants: the same packages, seed and sizes give the same bytes; tasks are balanced; train and held out share no recording; the
folder appears whole or not at all.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import logging
import math
import random
import wave
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.datasets.acoustic_qa.bank import Bank, bank_for
from orchestrator.datasets.acoustic_qa.library import RATE
from orchestrator.datasets.acoustic_qa.questions import FAMILY_TASKS, TASKS, questions_for
from orchestrator.datasets.acoustic_qa.render import render
from orchestrator.datasets.acoustic_qa.scenes import Catalogue, SceneWriter
from orchestrator.datasets.acoustic_qa.sources import Fetched, fetch
from orchestrator.datasets.folders import MANIFEST, built_folder, check_target
from orchestrator.datasets.jsonl import write_questions
from orchestrator.datasets.schema import DataError
from orchestrator.seeds import derive
from rollout.messages import AudioRef, Question

log = logging.getLogger(__name__)

NAME = "acoustic_qa"
FORMAT = 1  # of the manifest
TRAIN, HELD_OUT = 3200, 480  # questions
SOURCE_SEPARATOR = " | "  # between recording ids in `Question.source`
DOMAINS = ("speech", "sound", "music", "drum", "tone")
SIDE_SHARE = (
    0.5  # of the further questions a clip would carry: all of them would crowd out the families made for those tasks
)
DRAWS_PER_QUESTION = 60  # scenes tried in all, as a bound
PROBES = 100  # scenes of a family tried to see which tasks it can carry


def build_acoustic_qa(
    out_dir: str | Path,
    seed: int,
    *,
    train: int = TRAIN,
    held_out: int = HELD_OUT,
    progress: Callable[[str], None] | None = None,
    fetched: Fetched | None = None,
) -> Path:
    """Builds the data set into `out_dir` (train.jsonl, held_out.jsonl, clips/, manifest.json) and returns that folder.

    train, held_out: numbers of questions, spread evenly over the tasks. progress: called with a line at each step. fetched: packages
    to use instead of fetching all. An earlier build in `out_dir` is replaced. Raises DataError when the folder holds something else,
    cannot be written, or no task can be built.
    """
    say = progress or log.info
    out_dir = Path(out_dir).absolute()
    check_target(out_dir, NAME)
    if fetched is None:
        say("fetching packages with recordings (about 330 MB the first time)")
        fetched = fetch()
    say("cutting recordings into a bank (once per version of the packages)")
    with built_folder(out_dir, NAME) as folder:
        bank = bank_for(fetched)
        for line in bank.thinner:
            say(f"thinner: {line}")
        (folder / "clips").mkdir()
        sides = {}
        for split, count in (("train", train), ("held_out", held_out)):
            say(f"rendering {count} {split} questions")
            sides[split] = _Split(split, derive(seed, split))
            sides[split].build(bank, count, folder / "clips", say)
            write_questions(folder / f"{split}.jsonl", sides[split].questions)
        manifest = _manifest(folder, seed, bank, fetched, sides)
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    total = sum(len(side.questions) for side in sides.values())
    say(f"{total} questions over {sum(side.clips for side in sides.values())} clips in {out_dir}")
    return out_dir


@dataclass
class _Split:
    """One side of the data set while it is built."""

    name: str
    seed: int
    questions: list[Question] = field(default_factory=list)
    clips: int = 0
    seconds: float = 0.0

    def build(self, bank: Bank, count: int, folder: Path, say: Callable[[str], None]) -> None:
        """Draws scenes until every task has its share, and stores in `folder` the clips that a kept question needs."""
        catalogue = Catalogue(bank.recordings)
        writer = SceneWriter(catalogue, self.name)
        kinds = {domain: catalogue.kinds(domain) for domain in DOMAINS}
        possible = _possible(writer, kinds)
        wanted = dict(zip(possible, _shares(count, len(possible)), strict=True))
        room = {task: math.ceil(share / _answers(task, kinds)) for task, share in wanted.items()}
        given: Counter[tuple[str, str]] = Counter()
        rng = random.Random(f"build/{self.seed}")
        for draw, (task, family) in enumerate(_plan(writer.families(), wanted, rng)):
            scene = writer.draw(family, derive(self.seed, draw))
            kept = [
                question
                for question in questions_for(scene, kinds, f"{self.name}-{draw:05d}", self.name)
                if (question.task == task or rng.random() < SIDE_SHARE)
                and wanted.get(question.task, 0) > 0
                and given[question.task, question.answer] < room[question.task]
            ]
            if not kept:
                continue
            clip = _store(folder, render(scene, bank, augment=self.name == "train"))
            source = SOURCE_SEPARATOR.join(sorted({event.recording_id for event in scene.events}))
            for question in kept:
                wanted[question.task] -= 1
                given[question.task, question.answer] += 1
                self.questions.append(dataclasses.replace(question, audio=(clip,), source=source))
            self.clips += 1
            self.seconds += clip.seconds
        for task in TASKS:
            if wanted.get(task, 1) > 0:
                have = sum(q.task == task for q in self.questions)
                say(f"thinner: {self.name} has {have or 'no'} questions of the task {task}")
        if not self.questions:
            raise DataError(
                f"no {self.name} question can be built from the recordings at hand; see what is missing above"
            )


def _shares(count: int, parts: int) -> list[int]:
    """`count` in `parts` numbers that differ by one at most."""
    return [count // parts + (i < count % parts) for i in range(parts)]


def _answers(task: str, kinds: dict[str, tuple[str, ...]]) -> int:
    """How many different answers a task has: its share is spread evenly over them."""
    domain = {"word": "speech", "source": "sound", "instrument": "music"}.get(task)
    return len(kinds[domain]) if domain else round(1 / TASKS[task].chance)


def _possible(writer: SceneWriter, kinds: dict[str, tuple[str, ...]]) -> list[str]:
    """Tasks that scenes of this bank can carry (without soundfonts a note is never an instrument's)."""
    found: set[str] = set()
    for family in writer.families():
        for draw in range(PROBES):
            if found.issuperset(FAMILY_TASKS[family]):
                break
            found |= {q.task for q in questions_for(writer.draw(family, draw), kinds, "probe")}
    return [task for task in TASKS if task in found]


def _plan(families: tuple[str, ...], wanted: dict[str, int], rng: random.Random) -> Iterator[tuple[str, str]]:
    """(task, family that serves it) to draw next: the task with the most questions still wanted (`wanted` shrinks meanwhile)."""
    left = DRAWS_PER_QUESTION * sum(wanted.values())
    while left and any(n > 0 for n in wanted.values()):
        task = max(wanted, key=lambda name: wanted[name])
        yield task, rng.choice([family for family in families if task in FAMILY_TASKS[family]])
        left -= 1


def _store(folder: Path, clip_L: np.ndarray) -> AudioRef:
    """Writes a clip as 16-bit wav named by its content."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.round(clip_L * 32767.0).astype("<i2").tobytes())
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    path = folder / f"{digest[:24]}.wav"
    path.write_bytes(buffer.getvalue())
    return AudioRef(str(path), digest, len(clip_L) / RATE)


def _manifest(folder: Path, seed: int, bank: Bank, fetched: Fetched, sides: dict[str, _Split]) -> dict[str, Any]:
    return {
        "name": NAME,
        "format": FORMAT,
        "seed": seed,
        "bank_sha256": bank.digest,
        "files": {
            f"{split}.jsonl": hashlib.sha256((folder / f"{split}.jsonl").read_bytes()).hexdigest() for split in sides
        },
        "splits": {
            split: {
                "questions": len(side.questions),
                "clips": side.clips,
                "seconds": round(side.seconds, 1),
                "tasks": dict(Counter(q.task for q in side.questions)),
                "domains": dict(Counter(q.domain for q in side.questions)),
            }
            for split, side in sides.items()
        },
        "chance_by_task": {name: round(task.chance, 4) for name, task in TASKS.items()},
        "recordings": {split: dict(Counter(r.domain for r in bank.recordings if r.split == split)) for split in sides},
        "sources": [
            {"name": s.name, "registry": s.registry, "version": s.version, "sha256": s.sha256, "licence": s.licence}
            for s in fetched.sources.values()
        ],
        "thinner": list(bank.thinner),
    }

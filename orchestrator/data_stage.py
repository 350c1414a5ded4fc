"""The questions of a run: built when they are missing, read and checked before anything starts.

Neighbours: `datasets` (builder, reader), `controller`. Invariants: a bad line or clip stops the run here, by file and line, and so does
what is both trained on and held out; two runs that build the same data set at once build it once.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator import paths
from orchestrator.config.schema import ExperimentConfig
from orchestrator.datasets import load_questions
from orchestrator.datasets.demonstrations import Demonstration, read_demonstrations
from orchestrator.datasets.folders import generator_digest
from orchestrator.datasets.overlaps import check_overlaps
from orchestrator.progress import ProgressView
from rollout import BASE_DIR, Question


@dataclass(frozen=True)
class Questions:
    """What a run reads. text_*: questions without a clip; conversations: demonstrations; both only of the recipe `mgrd`.

    files: what was read, by role; digests: SHA-256 of these files (which name each clip by its own digest).
    """

    train: list[Question]
    held_out: list[Question]
    files: dict[str, Path]
    digests: dict[str, str]
    text_train: list[Question] = field(default_factory=list)
    text_held_out: list[Question] = field(default_factory=list)
    conversations: list[Demonstration] = field(default_factory=list)


def load_or_build(config: ExperimentConfig, progress: ProgressView) -> Questions:
    """Raises DataError with every bad line at once, or with what two of the files must not share; whatever the builder raises when it
    can't build."""
    train_file, held_out_file = paths.train_file(config), paths.held_out_file(config)
    if not (train_file.is_file() and held_out_file.is_file()):
        build(config.data.build, paths.data_dir(config), config.data.build_seed, progress)
    if config.data.build == "acoustic_qa" and not (config.data.train or config.data.held_out or config.model.path):
        note_other_recordings(paths.data_dir(config), progress)
    files = {"train": train_file, "held_out": held_out_file}
    if config.pipeline.recipe == "mgrd":
        files |= _text_files(config, progress)
    read = {
        "train": named(load_questions(train_file), "" if config.data.train else config.data.build, train_file),
        "held_out": named(
            load_questions(held_out_file), "" if config.data.held_out else config.data.build, held_out_file
        ),
    }
    for role in ("text_train", "text_held_out"):
        read[role] = named(load_questions(files[role]), "", files[role]) if role in files else []
    talks = read_demonstrations(files["conversations"]) if "conversations" in files else []
    check_overlaps(read | {"conversations": [item.question for item in talks]}, files)
    return Questions(
        **read, files=files, digests={name: _digest(path) for name, path in files.items()}, conversations=talks
    )


def _text_files(config: ExperimentConfig, progress: ProgressView) -> dict[str, Path]:
    """Text questions and conversations of the recipe `mgrd`, generated where the config names none. What is in a generated folder's name
    decides its files: the generator's own source, sizes and seed."""
    from orchestrator.datasets import conversations, text_reasoning

    data, seed = config.data, config.data.build_seed
    size = f"{data.text_questions}-{data.text_held_out_questions}-{data.text_largest}-{data.text_factor}"
    folders = {
        "text_reasoning": _generated("text_reasoning", text_reasoning.SOURCES, f"{size}-seed{seed}"),
        "conversations": _generated("conversations", conversations.SOURCES, f"seed{seed}"),
    }
    if not (data.text_train and data.text_held_out):
        build(
            "text_reasoning",
            folders["text_reasoning"],
            seed,
            progress,
            train=data.text_questions,
            held_out=data.text_held_out_questions,
            difficulty=text_reasoning.Difficulty(largest=data.text_largest, factor=data.text_factor),
        )
    if not data.conversations:
        build("conversations", folders["conversations"], seed, progress)
    return {
        "text_train": Path(data.text_train or folders["text_reasoning"] / "train.jsonl").absolute(),
        "text_held_out": Path(data.text_held_out or folders["text_reasoning"] / "held_out.jsonl").absolute(),
        "conversations": Path(data.conversations or folders["conversations"] / "demonstrations.jsonl").absolute(),
    }


def _generated(name: str, sources: Sequence[str], what: str) -> Path:
    return paths.cache_dir() / "data" / f"{name}-{generator_digest(sources)[:12]}-{what}"


def note_other_recordings(folder: Path, progress: ProgressView) -> None:
    """Say so when the data set was cut from other recordings than the shipped base learnt from: then what is held out here may
    not have been held out there, and figures differ from the published ones."""
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        return
    here = json.loads(manifest.read_text(encoding="utf-8")).get("bank_sha256", "")
    base = json.loads((BASE_DIR / "manifest.json").read_text(encoding="utf-8"))["data"]["bank"]
    if here != base:
        progress.note(
            f"the recordings of {folder} (bank {here[:12]}) are not those the shipped base learnt from (bank {base[:12]}): some "
            "packages are missing or have another version; what is held out here may not have been held out there"
        )


def named(questions: Sequence[Question], name: str, file: Path) -> list[Question]:
    """Every question with its data set's name: its own, else `name`, else the file's stem."""
    return [q if q.dataset else dataclasses.replace(q, dataset=name or file.stem) for q in questions]


def build(name: str, out_dir: Path, seed: int, progress: ProgressView, **options: object) -> None:
    """Build a data set by its builder's name, under a lock beside `out_dir`; options: the builder's own."""
    from orchestrator.datasets.acoustic_qa.build import build_acoustic_qa
    from orchestrator.datasets.conversations.build import build_conversations
    from orchestrator.datasets.text_reasoning.build import build_text_reasoning

    builders: dict[str, Callable[..., object]] = {
        "acoustic_qa": build_acoustic_qa,
        "text_reasoning": build_text_reasoning,
        "conversations": build_conversations,
    }
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    with (out_dir.parent / f".{out_dir.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (out_dir / "manifest.json").is_file():
            return
        progress.note(f"building the data set {name} in {out_dir} (once; later runs reuse it)")
        builders[name](out_dir, seed, progress=progress.note, **options)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

"""What is evaluated on what: a checkpoint folder with its digest, questions with theirs and the reward that scores them.

Neighbours: `datasets.jsonl` and `datasets.benchmarks` read the questions, `run` puts both together. Invariants: digests are of contents
(weights, questions, clips), never of paths; a data set that can't be read is refused before anything starts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import paths
from orchestrator.config.compose import from_yaml
from orchestrator.data_stage import named
from orchestrator.datasets import load_questions
from orchestrator.datasets.benchmarks import BENCHMARKS, JudgeAccess, load_benchmark
from orchestrator.errors import PreflightError
from orchestrator.stages.plans import balanced
from rewards import RewardTerm
from rollout import Question, resolve_model

PRESETS = ("tiny", "small", "step_audio_2_mini", "step_audio_r1")
MODEL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")
CARRIED = (  # keys of a run's own configuration under which its model is evaluated, unless the user says otherwise
    "model.name",
    "model.dtype",
    "model.max_model_len",
    "model.max_audio_chunks",
    "rollout.temperature",
    "rollout.max_new_tokens",
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """path: Hugging Face folder; digest: SHA-256 over config, tokenizer and weights; run_dir, run_id: of the run that made it, where it
    lies in a run's directory; overrides: configuration of that run that sampling follows."""

    path: Path
    digest: str
    run_dir: str = ""
    run_id: str = ""
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EvaluationData:
    """scoring: the one term that says how good a reply is, weight 1; graded: it gives more than right or wrong; source: where format and
    scoring are published."""

    name: str
    path: Path
    questions: list[Question]
    digest: str
    scoring: tuple[RewardTerm, ...]
    graded: bool = False
    source: str = ""


def find_checkpoint(model: str) -> Checkpoint:
    """model: a run's directory, a checkpoint folder (of a run: RUN/model or RUN/models/NAME), a hub id, or a preset's name.

    Raises PreflightError, ModelError.
    """
    if model in PRESETS and not Path(model).is_dir():
        folder = Path(resolve_model("", preset=model))
        return Checkpoint(folder, model_digest(folder), overrides=(f"model.name={model}",))
    given = Path(model).expanduser().absolute()
    places = (given, given.parent, *([given.parent.parent] if given.parent.name == "models" else []))
    run_dir = next((d for d in places if (d / "state.json").is_file()), None)
    if run_dir == given:
        if not (given / "model").is_dir():
            raise PreflightError(
                f"{given} is a run that has exported no model yet (no {given / 'model'}); let it end first"
            )
        given = given / "model"
    folder = Path(resolve_model(str(given) if given.is_dir() else model))
    if run_dir is None:
        return Checkpoint(folder, model_digest(folder))
    run_id = json.loads((run_dir / "state.json").read_text(encoding="utf-8")).get("mlflow_run_id", "")
    stored = run_dir / "config.yaml"
    overrides = tuple(_carried(stored)) if stored.is_file() else ()
    return Checkpoint(folder, model_digest(folder), str(run_dir), run_id, overrides)


def model_digest(folder: Path) -> str:
    """SHA-256 of what decides a model's answers. Raises PreflightError for a folder without weights."""
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise PreflightError(
            f"{folder} holds no *.safetensors: give a Hugging Face folder (a run's model is RUN/model)"
        )
    digest = hashlib.sha256()
    for path in [folder / name for name in MODEL_FILES if (folder / name).is_file()] + weights:
        with path.open("rb") as file:
            digest.update(f"{path.name}\0".encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def questions_digest(questions: Sequence[Question]) -> str:
    """SHA-256 over everything in the questions but where their clips lie."""
    digest = hashlib.sha256()
    for question in questions:
        digest.update(json.dumps(_without_paths(dataclasses.asdict(question)), sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def jsonl_data(file: Path) -> EvaluationData:
    """Questions of our own schema, scored by their answer kind. Raises DataError."""
    questions = named(load_questions(file), "", file)
    return EvaluationData(
        file.stem, file.absolute(), questions, questions_digest(questions), (RewardTerm("answer", 1.0, "any"),)
    )


def benchmark_data(name: str, path: Path, judge: JudgeAccess | None) -> EvaluationData:
    """A benchmark's published files under its own scoring. Raises DataError, PreflightError when it can't be scored so."""
    benchmark = BENCHMARKS.get(name)
    if benchmark is None:
        raise PreflightError(f"there is no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    try:
        scoring = benchmark.scoring(judge)
    except ValueError as error:
        raise PreflightError(str(error)) from error
    questions = load_benchmark(name, path, cache_folder(name))
    digest = questions_digest(questions)
    return EvaluationData(name, path.absolute(), questions, digest, scoring, benchmark.graded, benchmark.source)


def limited(data: EvaluationData, count: int) -> EvaluationData:
    """At most `count` questions, balanced over tasks (0: all); the same ones every time."""
    if not count or count >= len(data.questions):
        return data
    chosen = [data.questions[i] for i in sorted(balanced([q.task for q in data.questions], count, 0))]
    return dataclasses.replace(data, questions=chosen, digest=questions_digest(chosen))


def cache_folder(name: str) -> Path:
    """Where clips that a benchmark embeds are written."""
    return paths.cache_dir() / "benchmarks" / name


def _carried(file: Path) -> list[str]:
    config: Any = from_yaml(file)
    found = []
    for key in CARRIED:
        group, name = key.split(".")
        found.append(f"{key}={getattr(getattr(config, group), name)}")
    return found


def _without_paths(value: Any) -> Any:
    """Recordings without the field `path`, wherever they are."""
    if isinstance(value, dict):
        skip = "path" if {"path", "sha256", "seconds"} <= value.keys() else ""
        return {key: _without_paths(item) for key, item in value.items() if key != skip}
    if isinstance(value, list | tuple):
        return [_without_paths(item) for item in value]
    return value

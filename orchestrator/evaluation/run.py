"""One evaluation from start to end: engines up, questions asked, report written, recorded in MLflow.

Neighbours: `eval_cli` calls it; `session` starts the parts, `runner` and `chunks` make it resumable. Invariants: refused inputs have
started nothing; a killed evaluation goes on with `resume` and ends with the report it would have had.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import paths, preflight
from orchestrator.config.compose import compose_config, to_yaml
from orchestrator.config.schema import ExperimentConfig
from orchestrator.config.shown import shown
from orchestrator.embedded import EmbeddedServices
from orchestrator.errors import MgrdError, PreflightError, RunPaused
from orchestrator.evaluation.chunks import ChunkStore, EvaluationPlan
from orchestrator.evaluation.contribution import PREFIX, contribution_report, passes_without_clips
from orchestrator.evaluation.outcomes import outcomes_of
from orchestrator.evaluation.plots import write_plots
from orchestrator.evaluation.report import EvaluationReport, build_report, metrics_of, summary_lines, table_rows
from orchestrator.evaluation.runner import Pass, collect, missing, standard_passes, stored
from orchestrator.evaluation.session import Session, costs_in
from orchestrator.evaluation.sources import Checkpoint, EvaluationData
from orchestrator.hearing.contribution import chance_of
from orchestrator.progress import ProgressView
from orchestrator.rundir import write_atomic
from orchestrator.seeds import derive
from orchestrator.tracking import Tracker
from rewards import ResolvedReward, RewardError, RewardSpec, RewardTerm, StoredTrajectory, resolve_reward
from rollout import Question

CHUNK_S = 25.0  # of audio in a chunk of a prompt, as `rollout.audio` cuts
EXPERIMENT = "evaluations"  # in MLflow


@dataclass(frozen=True, slots=True)
class Request:
    """samples: responses a question beside the greedy one; ks: of pass@k; chunk: questions that are asked and kept together;
    contribution: ask audio questions without their clips, too.
    """

    checkpoint: Checkpoint
    data: EvaluationData
    out: Path
    samples: int = 4
    ks: tuple[int, ...] = (1, 4)
    chunk: int = 64
    seed: int = 11
    resume: bool = False
    contribution: bool = False
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """record: what report.json holds; files: what was written into the folder."""

    report: EvaluationReport
    record: dict[str, Any]
    folder: Path
    files: tuple[Path, ...]


def evaluate(request: Request, progress: ProgressView) -> Finished:
    """Raises PreflightError and ConfigError before anything starts; RunPaused, and what engines raise, after."""
    config = configured(request)
    reward = scoring_of(config, request.data)
    store = ChunkStore(request.out.absolute())
    preflight.check_run_directory(store.folder)
    preflight.check_machine(config)
    passes = passes_of(request, config, store.folder)
    with store.claimed(_plan(request, config, reward, passes), request.resume):
        return _evaluate(request, config, reward, passes, store=store, progress=progress)


def passes_of(request: Request, config: ExperimentConfig, folder: Path) -> list[Pass]:
    """Everything that is asked. Raises HearingError and AudioError where clips can't be taken away."""
    questions = request.data.questions
    seed = derive(request.seed, "evaluate")
    tokens = config.rollout.max_new_tokens
    passes = standard_passes(
        questions,
        samples=request.samples,
        temperature=config.rollout.temperature,
        max_new_tokens=tokens,
        seed=seed,
    )
    if request.contribution:
        passes += passes_without_clips(questions, passes[-1].spec, folder / "clips", seed)
    return passes


def configured(request: Request) -> ExperimentConfig:
    """The configuration that sampling follows: the run's that made the model, then the user's overrides, then room for the clips.

    Raises ConfigError.
    """
    wanted = dict(override.split("=", 1) for override in request.checkpoint.overrides if "=" in override)
    own = [override for override in request.overrides if override.partition("=")[0] not in wanted]
    wanted |= dict(override.split("=", 1) for override in request.overrides if override.partition("=")[0] in wanted)
    chunks = max((_chunks(question) for question in request.data.questions), default=1)
    config = compose_config([*(f"{key}={value}" for key, value in wanted.items()), *own, f"run.seed={request.seed}"])
    config.model.max_audio_chunks = max(config.model.max_audio_chunks, chunks)
    return config


def scoring_of(config: ExperimentConfig, data: EvaluationData) -> ResolvedReward:
    """The data set's own scoring under the configured limits. Raises PreflightError for a reward that can't be used."""
    limits = config.reward
    spec = RewardSpec(
        data.scoring,
        limits.timeout_s,
        limits.memory_mb,
        limits.workers,
        cpu_s=limits.cpu_s,
        open_files=limits.open_files,
        threads=limits.threads,
    )
    try:
        return resolve_reward(spec)
    except RewardError as error:
        raise PreflightError(f"scoring of {data.name}: {error}") from error


def scoring_digest(terms: Sequence[RewardTerm]) -> str:
    """SHA-256 over what the terms are and what they are given: another judge or rule under the same code is another scoring."""
    told = [[term.name, term.version, term.parameters] for term in terms]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _plan(request: Request, config: ExperimentConfig, reward: ResolvedReward, passes: Sequence[Pass]) -> EvaluationPlan:
    return EvaluationPlan(
        model=str(request.checkpoint.path),
        model_digest=request.checkpoint.digest,
        data=str(request.data.path),
        data_digest=request.data.digest,
        questions=len(request.data.questions),
        samples=request.samples,
        temperature=config.rollout.temperature,
        max_new_tokens=config.rollout.max_new_tokens,
        seed=request.seed,
        chunk=request.chunk,
        rewards=reward.versions,
        scoring=scoring_digest(request.data.scoring),
        passes=tuple(one.name for one in passes),
    )


def _evaluate(
    request: Request,
    config: ExperimentConfig,
    reward: ResolvedReward,
    passes: Sequence[Pass],
    *,
    store: ChunkStore,
    progress: ProgressView,
) -> Finished:
    with EmbeddedServices(store.folder, paths.mlflow_root(config), config.cluster) as services:
        uri = config.cluster.mlflow_uri or services.mlflow()
        if missing(passes, store, request.chunk):
            services.ray()
        tracker = Tracker(services.wait_for_mlflow(uri), EXPERIMENT, store.folder / "tracking")
        state_file = store.folder / "state.json"
        state: dict[str, Any] = {"seconds": 0.0}
        if state_file.exists():
            state |= json.loads(state_file.read_text(encoding="utf-8"))
        run_id = tracker.start_run(
            f"{request.data.name} · {_label(request.checkpoint)}",
            _parameters(request, config, reward),
            lineage(request.checkpoint, uri),
            run_id=state.get("mlflow_run_id"),
        )
        if "mlflow_run_id" not in state:
            tracker.text("config.yaml", to_yaml(shown(config)))
            tracker.dataset(request.data.path, request.data.digest, "evaluation")
        state["mlflow_run_id"] = run_id
        started, before = time.monotonic(), state["seconds"]

        def spent() -> float:
            """Seconds so far, all attempts together; on disk after every chunk, so that a kill loses those of one at most."""
            state["seconds"] = before + time.monotonic() - started
            write_atomic(state_file, json.dumps(state))
            return state["seconds"]

        spent()
        try:
            finished = _ask_and_report(
                request, config, reward, passes, store=store, progress=progress, tracker=tracker, spent=spent
            )
        except (KeyboardInterrupt, RunPaused) as stop:
            tracker.finish("KILLED", f"{type(stop).__name__}: {stop}")
            raise
        except Exception as error:
            tracker.finish("FAILED", f"{type(error).__name__}: {error}")
            raise
        finally:
            spent()
        tracker.finish("FINISHED")
        return finished


def _ask_and_report(
    request: Request,
    config: ExperimentConfig,
    reward: ResolvedReward,
    passes: Sequence[Pass],
    *,
    store: ChunkStore,
    progress: ProgressView,
    tracker: Tracker,
    spent: Callable[[], float],
) -> Finished:
    found = _asked(request, config, reward, passes, store=store, progress=progress, tracker=tracker, on_kept=spent)
    ks = () if request.data.graded else tuple(k for k in request.ks if k <= request.samples)
    outcomes = {name: outcomes_of(those) for name, those in found.items()}
    without = {name: those for name, those in outcomes.items() if name.startswith(PREFIX)}
    chance = {question.id: chance_of(question) for question in request.data.questions}
    heard = contribution_report(outcomes["greedy"], without, chance=chance, seed=request.seed) if without else None
    report = build_report(outcomes["sampled"], outcomes["greedy"], ks=ks, seed=request.seed, contribution=heard)
    record = {
        "model": {
            "path": str(request.checkpoint.path),
            "digest": request.checkpoint.digest,
            "run": request.checkpoint.run_id,
        },
        "data": {
            "name": request.data.name,
            "path": str(request.data.path),
            "digest": request.data.digest,
            "source": request.data.source,
        },
        "sampling": {
            "samples": request.samples,
            "temperature": config.rollout.temperature,
            "max_new_tokens": config.rollout.max_new_tokens,
            "seed": request.seed,
        },
        "scoring": {"terms": [{"name": t.name, "parameters": t.parameters} for t in request.data.scoring]},
        "rewards": reward.versions,
        "seconds": spent(),
        "mlflow": {"tracking_uri": tracker.tracking_uri, "run_id": tracker.run_id},
        **report.to_dict(),
    }
    files = _write(record, report, store.folder)
    tracker.log(0, metrics_of(report) | costs_in(store.folder))
    for path in files:
        tracker.artifact(path, path.name)
    return Finished(report, record, store.folder, tuple(files))


def _asked(
    request: Request,
    config: ExperimentConfig,
    reward: ResolvedReward,
    passes: Sequence[Pass],
    *,
    store: ChunkStore,
    progress: ProgressView,
    tracker: Tracker,
    on_kept: Callable[[], object],
) -> dict[str, list[StoredTrajectory]]:
    """Every trajectory by pass. Engines start only when something is missing on disk."""
    left = missing(passes, store, request.chunk)
    if not left:
        progress.note("everything was sampled before")
        return stored(passes, store, request.chunk)
    with Session(config, store.folder, progress, tracker, model_path=request.checkpoint.path, reward=reward) as session:
        session.check_prompts([question for one in passes[1:] for question in one.questions])
        with progress.bar(request.data.name, left) as advance:
            return collect(session, passes, store, request.chunk, advance, on_kept=on_kept)


def _write(record: dict[str, Any], report: EvaluationReport, folder: Path) -> list[Path]:
    """report.json, table.md and the plots; the report last, since it is what says that the evaluation is done."""
    rows = table_rows(report)
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    table = folder / "table.md"
    write_atomic(table, "\n".join([*lines, "", *(f"- {line}" for line in summary_lines(report)), ""]))
    plots = write_plots(report, folder)
    report_file = folder / "report.json"
    write_atomic(report_file, json.dumps(record, indent=1) + "\n")
    return [report_file, table, *plots]


def lineage(checkpoint: Checkpoint, tracking_uri: str) -> dict[str, str]:
    """Tags that lead from an evaluation to its model: folder, digest, the run that made it and its registered version."""
    tags = {"mgrd.kind": "evaluation", "mgrd.model": str(checkpoint.path), "mgrd.model_digest": checkpoint.digest}
    if not checkpoint.run_id:
        return tags
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    tags |= {"mgrd.model_run": checkpoint.run_id, "mgrd.model_run_dir": checkpoint.run_dir}
    try:
        versions = MlflowClient(tracking_uri, tracking_uri).search_model_versions(f"run_id = '{checkpoint.run_id}'")
    except MlflowException as error:
        raise MgrdError(f"MLflow at {tracking_uri} can't be asked for the model's version: {error.message}") from error
    if versions:
        tags["mgrd.model_version"] = f"{versions[0].name}/{versions[0].version}"
    return tags


def _parameters(request: Request, config: ExperimentConfig, reward: ResolvedReward) -> dict[str, Any]:
    return {
        "data": request.data.name,
        "questions": len(request.data.questions),
        "samples": request.samples,
        "temperature": config.rollout.temperature,
        "max_new_tokens": config.rollout.max_new_tokens,
        "seed": request.seed,
        "rewards": json.dumps(reward.versions),
    }


def _label(checkpoint: Checkpoint) -> str:
    return Path(checkpoint.run_dir).name if checkpoint.run_dir else checkpoint.path.name


def _chunks(question: Question) -> int:
    return sum(max(1, math.ceil(clip.seconds / CHUNK_S)) for clip in question.clips)

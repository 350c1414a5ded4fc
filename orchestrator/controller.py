"""One experiment from start to end: data, cold start, selection, policy updates, evaluation.

Neighbours: `stages` do the work, `parts` holds engines and trainer, `rundir` keeps what a resumed run needs, `tracking` tells
MLflow. Invariants: a finished stage is never run again; a checkpoint is written whole and then named; a run that fails ends
FAILED in MLflow with its reason; whatever was started is stopped.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from orchestrator import chaos, paths, preflight
from orchestrator.config.compose import flat, from_yaml, to_yaml
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data_stage import Questions, load_or_build
from orchestrator.datasets.cursor import Cursor
from orchestrator.embedded import EmbeddedServices
from orchestrator.errors import MgrdError, RunFailed, RunPaused
from orchestrator.parts import Parts
from orchestrator.progress import ProgressView
from orchestrator.report import phase_seconds, write_report
from orchestrator.rundir import CHECKPOINT_PREFIX, RunDirectory, write_atomic
from orchestrator.seeds import derive
from orchestrator.stages import evaluate, select, sft
from orchestrator.stages.reinforce import Reinforce
from orchestrator.tracking import Tracker
from rewards import ResolvedReward
from rollout import resolve_model

log = logging.getLogger(__name__)
AFTER_SFT = "after_sft"


class Controller:
    """Conducts one run. `run()` returns the report that it also wrote."""

    def __init__(self, config: ExperimentConfig, console: Console) -> None:
        self.config = config
        self.console = console
        self.progress = ProgressView(console, config.run.progress)
        self.directory = RunDirectory(paths.run_dir(config))
        self.state: dict[str, Any] = {}
        self.changed = False
        self.tracker: Tracker
        self.parts: Parts
        self.questions: Questions
        self.reward: ResolvedReward

    def run(self) -> dict[str, Any]:
        """Raises PreflightError, DataError or AudioError before anything starts, RunFailed (and what parts raise) after."""
        preflight.check_run_directory(self.directory.root)
        preflight.check_machine(self.config)
        preflight.check_data_paths(self.config)
        self.directory.claim(self.config.run.resume)
        try:
            self.state = self.directory.read_state() or {"stages": {}, "seconds": 0.0}
            self.reward = preflight.resolve_rewards(self.config, self.state.get("rewards", {}))
            return self._run()
        finally:
            self.directory.release()

    def _run(self) -> dict[str, Any]:
        started = time.monotonic()
        with self._timed("data"):
            self.questions = load_or_build(self.config, self.progress)
        self.changed = self._config_changed()
        write_atomic(self.directory.config_file, to_yaml(self.config))
        with EmbeddedServices(self.directory.root, paths.mlflow_root(self.config), self.config.cluster) as services:
            with self._timed("start"):
                self._start(services)
            try:
                report = self._stages(started)
            except KeyboardInterrupt:
                self._save_seconds(started)
                self.tracker.finish("KILLED", "interrupted by the user")
                raise
            except RunPaused as pause:
                self._save_seconds(started)
                self.tracker.finish("KILLED", f"paused: {pause}")
                raise
            except Exception as error:
                self._save_seconds(started)
                self.tracker.finish("FAILED", f"{type(error).__name__}: {error}")
                raise
            finally:
                self.parts.stop()
            return report

    def _start(self, services: EmbeddedServices) -> None:
        """Services, model, engines, trainer; then the weights of the last checkpoint on every side."""
        config = self.config
        uri = config.cluster.mlflow_uri or services.mlflow()
        redis_url = config.cluster.redis_url or services.redis()
        services.ray()
        model_path = Path(resolve_model(config.model.path, preset=config.model.name))
        self.tracker = Tracker(services.wait_for_mlflow(uri), config.run.name, self.directory.root / "tracking")
        run_id = self.tracker.start_run(
            f"{config.run.name}-seed{config.run.seed}",
            flat(config),
            {"mgrd.run_dir": str(self.directory.root), "mgrd.model": str(config.model.path or config.model.name)},
            run_id=self.state.get("mlflow_run_id"),
        )
        first = "mlflow_run_id" not in self.state
        self.state["mlflow_run_id"] = run_id
        self.directory.write_state(self.state)
        if first:
            self.tracker.text("config.yaml", to_yaml(config))
            self.tracker.dataset(self.questions.train_file, self.questions.train_digest, "train")
            self.tracker.dataset(self.questions.held_out_file, self.questions.held_out_digest, "held_out")
        self.parts = Parts(
            config, self.directory, self.tracker, self.progress, model_path=model_path, reward=self.reward
        )
        try:
            self._pin_rewards(first)
            self.parts.start(redis_url, run_id)
            self._restore()
        except BaseException as error:
            status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
            self.tracker.finish(status, f"start: {type(error).__name__}: {error}")
            self.parts.stop()
            raise

    def _pin_rewards(self, first: bool) -> None:
        """Keep the content hash of every reward function with the run."""
        versions, before = self.reward.versions, self.state.get("rewards", {})
        changed = any(versions.get(name, version) != version for name, version in before.items())
        self.changed |= changed
        self.state["rewards"] = versions
        self.directory.write_state(self.state)
        if first or changed:
            self.tracker.text("rewards.json", json.dumps(versions, indent=1))

    def _config_changed(self) -> bool:
        """Whether a resumed run asks for something else than it was started with (apart from being resumed)."""
        if not self.directory.config_file.exists():
            return False
        stored = from_yaml(self.directory.config_file)
        same = dataclasses.replace(self.config, run=dataclasses.replace(self.config.run, resume=stored.run.resume))
        return same != stored

    def _restore(self) -> None:
        name = self.state.get("checkpoint")
        if name:
            self.parts.trainer.load(str(self.directory.checkpoint_path(name) / "trainer"))
            self.parts.publish(self.state["version"])
            self.progress.note(f"resumed from {self.directory.checkpoint_path(name)}")

    def _stages(self, started: float) -> dict[str, Any]:
        config, train, held_out = self.config, self.questions.train, self.questions.held_out
        if config.pipeline.sft.enabled:
            self._stage("sft", lambda: self._cold_start(train))
        before = self._stage(
            "evaluate_before", lambda: evaluate.run(self.parts, held_out, "evaluate before RL").to_dict()
        )
        after = before
        if config.pipeline.reinforce.updates:
            pool = self._stage("select", lambda: dataclasses.asdict(select.run(self.parts, train)))["pool"]
            by_id = {question.id: question for question in train}
            self._stage("reinforce", lambda: self._reinforce([by_id[name] for name in pool]))
            after = self._stage(
                "evaluate_after", lambda: evaluate.run(self.parts, held_out, "evaluate after RL").to_dict()
            )
        model = self._stage("export", self._export)
        return self._finish(started, before, after, model)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        begin = time.monotonic()
        yield
        self._add_seconds(name, time.monotonic() - begin)

    def _add_seconds(self, name: str, seconds: float) -> None:
        spent = self.state.setdefault("stage_seconds", {})
        spent[name] = spent.get(name, 0.0) + seconds

    def _stage(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Run a stage once: its result is kept in the run's state and returned from there ever after."""
        done = self.state["stages"].get(name)
        if done is not None:
            self.progress.note(f"{name}: done before, not run again")
            return done
        outer = self.parts.tracker
        begin = time.monotonic()
        with self.tracker.child(name) as child:
            self.parts.tracker = child
            try:
                result = work()
                child.text(f"{name}.json", json.dumps(result, indent=1))
            finally:
                self.parts.tracker = outer
                self._add_seconds(name, time.monotonic() - begin)
        self.state["stages"][name] = result
        self.directory.write_state(self.state)
        chaos.point(f"stage:{name}:done")
        return result

    def _cold_start(self, train: Sequence[Any]) -> dict[str, Any]:
        result = dataclasses.asdict(sft.run(self.parts, train))
        self.parts.trainer.reset_optimizer("ppo")
        self._checkpoint(AFTER_SFT, version=1)
        self.parts.publish(1)
        return result

    def _reinforce(self, pool: Sequence[Any]) -> dict[str, Any]:
        progress = self.state.get("reinforce", {})
        done = progress.get("update", 0)
        cursor = Cursor(len(pool), derive(self.config.run.seed, "cursor"))
        if progress:
            cursor.load_state_dict(progress["cursor"])
        if "checkpoint" not in self.state:  # no cold start came before
            self.parts.trainer.reset_optimizer("ppo")
            self._checkpoint("start", version=self.state.get("version", 0))
        self.directory.keep_updates_through(done)
        if self.changed:  # trajectories after the checkpoint were sampled by weights that this run will not have
            self.parts.ledger.discard_after(done)
        loop = Reinforce(
            self.parts, pool, cursor, done=done, version=self.state["version"], checkpoint=self._checkpoint_update
        )
        loop.run()
        updates = self.directory.read_updates()
        return {"updates": len(updates), "version": loop.version, "checkpoint": self.state["checkpoint"]}

    def _checkpoint_update(self, update: int, progress: dict[str, Any]) -> None:
        """Weights, optimizer, RNG (trainer), cursor and ledger frontier (state), under one name."""
        self.state["reinforce"] = {"update": update, "cursor": progress["cursor"]}
        self._checkpoint(f"{CHECKPOINT_PREFIX}{update:06d}", progress["version"])
        self.directory.drop_old_checkpoints(self.config.run.keep_checkpoints)

    def _checkpoint(self, name: str, version: int) -> None:
        temporary = self.directory.begin_checkpoint(name)
        self.parts.trainer.save(str(temporary / "trainer"))
        write_atomic(
            temporary / "state.json", json.dumps({"version": version, "reinforce": self.state.get("reinforce")})
        )
        chaos.point(f"checkpoint:{name}:written")
        self.directory.name_checkpoint(name)
        self.state |= {"checkpoint": name, "version": version}
        chaos.point(f"checkpoint:{name}:named")
        self.directory.write_state(self.state)

    def _export(self) -> dict[str, Any]:
        """The final weights as a Hugging Face folder, registered with its lineage."""
        target = self.directory.root / "model"
        self.parts.trainer.export(str(target))
        tags = {
            "mgrd.run_id": self.state["mlflow_run_id"],
            "mgrd.base": str(self.parts.model_path),
            "mgrd.weights_version": str(self.state.get("version", 0)),
            "mgrd.checkpoint": self.state.get("checkpoint", ""),
            "mgrd.train_digest": self.questions.train_digest,
        }
        self.tracker.register_model(str(target), f"mgrd-{self.config.run.name}", tags)
        return {"path": str(target)}

    def _save_seconds(self, started: float) -> None:
        self.state["seconds"] += time.monotonic() - started
        self.directory.write_state(self.state)

    def _finish(
        self, started: float, before: dict[str, Any], after: dict[str, Any], model: dict[str, Any]
    ) -> dict[str, Any]:
        self._save_seconds(started)
        updates = self.directory.read_updates()
        rewards = [record["metrics"]["reward/mean"] for record in updates]
        probes = [r["metrics"]["probe/max_abs_diff"] for r in updates if "probe/max_abs_diff" in r["metrics"]]
        invalid = sum(r["metrics"]["invalid_share"] * r["metrics"]["trajectories"] for r in updates)
        report = {
            "status": "succeeded",
            "seed": self.config.run.seed,
            "seconds": self.state["seconds"],
            "stages": [{"name": name, "seconds": seconds} for name, seconds in self.state["stage_seconds"].items()],
            "policy_updates": len(updates),
            "phase_seconds": phase_seconds(updates),
            "reward": {"first_ten": _mean(rewards[:10]), "last_ten": _mean(rewards[-10:])} if rewards else {},
            "eval": {"before": before, "after": after},
            "select": {k: v for k, v in self.state["stages"].get("select", {}).items() if k != "pool"},
            "invalid_verdicts": round(invalid) + before["invalid_verdicts"] + after["invalid_verdicts"],
            "probe_max_abs_diff": max(probes, default=0.0),
            "mlflow": {"tracking_uri": self.tracker.tracking_uri, "run_id": self.state["mlflow_run_id"]},
            "checkpoint": str(self.directory.checkpoint_path(self.state["checkpoint"]))
            if "checkpoint" in self.state
            else "",
            "model": model["path"],
        }
        write_report(self.directory, report)
        summary = {f"before/{k}": v for k, v in before.items() if isinstance(v, float)}
        summary |= {f"after/{k}": v for k, v in after.items() if isinstance(v, float)}
        self.tracker.log(len(updates), summary)
        self.tracker.artifact(str(self.directory.report_file), "report.json")
        self.tracker.finish("FINISHED")
        return report


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


__all__ = ["Controller", "MgrdError", "RunFailed"]

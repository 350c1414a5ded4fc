"""One experiment from start to end: what is checked before, what is started around the stages, what is reported after.

Neighbours: `conductor` walks through the stages, `parts` holds engines and trainer, `rundir` keeps what a resumed run needs, `tracking`
tells MLflow. Invariants: nothing starts before the input is checked; a run that fails ends FAILED in MLflow with its reason;
whatever was started is stopped.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from orchestrator import paths, preflight
from orchestrator.conductor import Conductor
from orchestrator.config.compose import flat, from_yaml, to_yaml
from orchestrator.config.resume import lasting, refuse_another_run
from orchestrator.config.schema import ExperimentConfig
from orchestrator.config.shown import shown
from orchestrator.curve import write_curve
from orchestrator.data_stage import Questions, load_or_build
from orchestrator.demand import demand_of
from orchestrator.embedded import EmbeddedServices
from orchestrator.errors import MgrdError, PreflightError, RunFailed, RunPaused
from orchestrator.evaluation.guardrails import parse_guardrails
from orchestrator.evaluation.promotion import PromotionError, promote
from orchestrator.observer import Nobody, Observer
from orchestrator.parts import Parts
from orchestrator.pipeline import stages_of, updates_of
from orchestrator.progress import ProgressView
from orchestrator.report import write_report
from orchestrator.run_report import RunFacts, mgrd_report, report_metrics, rl_report
from orchestrator.rundir import RunDirectory, write_atomic
from orchestrator.stages.runners import RUNNERS
from orchestrator.tracking import Tracker
from rewards import ResolvedReward
from rollout import DriverLog, LogFile, resolve_model

log = logging.getLogger(__name__)


class Controller:
    """Conducts one run. `run()` returns the report that it also wrote.

    observer: watches it; tags: of its MLflow run, beside its own; namespace: of its actors, and name of what it reserves, on a Ray
    cluster that it joins.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        console: Console,
        observer: Observer | None = None,
        *,
        tags: Mapping[str, str] | None = None,
        namespace: str = "",
    ) -> None:
        self.config = config
        self.console = console
        self.observer: Observer = observer or Nobody()
        self.progress = ProgressView(console, config.run.progress, self.observer)
        self._tags = dict(tags or {})
        self._namespace = namespace
        self.directory = RunDirectory(paths.run_dir(config))
        self.state: dict[str, Any] = {}
        self._mark = 0.0
        self.tracker: Tracker
        self.parts: Parts
        self.questions: Questions
        self.reward: ResolvedReward

    def run(self) -> dict[str, Any]:
        """Raises PreflightError, DataError or AudioError before anything starts, RunFailed (and what parts raise) after."""
        preflight.check_run_directory(self.directory.root)
        preflight.check_plan(self.config)
        preflight.check_machine(self.config)
        preflight.check_data_paths(self.config)
        preflight.check_checkpoint_url(self.config)
        self.directory.claim(self.config.run.resume)
        try:
            self.state = self.directory.read_state() or {"seconds": 0.0}
            with DriverLog(LogFile.of(self.directory.logs, "driver")):
                self.reward = preflight.resolve_rewards(self.config, self.state.get("rewards", {}))
                return self._run()
        finally:
            self.directory.release()

    def _run(self) -> dict[str, Any]:
        self._mark = time.monotonic()
        with self._timed("data"):
            self.questions = load_or_build(self.config, self.progress)
        self._note_changes()
        with EmbeddedServices(self.directory.root, paths.mlflow_root(self.config), self.config.cluster) as services:
            with self._timed("start"):
                self._start(services)
            try:
                report = self._stages()
            except KeyboardInterrupt:
                self._save()
                self.tracker.finish("KILLED", "interrupted by the user")
                raise
            except RunPaused as pause:
                self._save()
                self.tracker.finish("KILLED", f"paused: {pause}")
                raise
            except Exception as error:
                self._save()
                self.tracker.finish("FAILED", f"{type(error).__name__}: {error}")
                raise
            finally:
                self.parts.stop()
            return report

    def _note_changes(self) -> None:
        """Whether this start asks for something else than the run was last started with; kept until a stage has taken it up, also
        over starts that fail. Raises PreflightError for another run's directory, ConfigError likewise."""
        stored = from_yaml(self.directory.config_file) if self.directory.config_file.exists() else None
        if stored is not None:
            refuse_another_run(stored, self.config)
        digests = self.state.setdefault("data", self.questions.digests)
        if digests != self.questions.digests and not self.config.run.redo:
            names = [
                name
                for name in {**digests, **self.questions.digests}
                if digests.get(name) != self.questions.digests.get(name)
            ]
            raise PreflightError(
                f"the run's data have changed ({', '.join(names)}): finished stages would be thrown away. Restore the files, start another "
                "run, or give run.redo=true to make all that depends on them again"
            )
        self.state["data"] = self.questions.digests
        versions, before = self.reward.versions, self.state.get("rewards", {})
        changed = stored is not None and stored != lasting(self.config)
        changed |= any(versions.get(name, version) != version for name, version in before.items())
        self.state |= {"changed": self.state.get("changed", False) or changed, "rewards": versions}
        self.state["starts"] = self.state.get("starts", 0) + 1
        self._save()
        secret = shown(self.config) != self.config
        write_atomic(self.directory.config_file, to_yaml(lasting(self.config)), owner_only=secret)

    def _start(self, services: EmbeddedServices) -> None:
        """Services, model, engines, trainer; then the weights of the last checkpoint on every side."""
        config = self.config
        uri = config.cluster.mlflow_uri or services.mlflow()
        redis_url = config.cluster.redis_url or services.redis()
        services.ray(least_cpus=math.ceil(demand_of(config).cpus), namespace=self._namespace)
        model_path = Path(resolve_model(config.model.path, preset=config.model.name))
        self.tracker = Tracker(services.wait_for_mlflow(uri), config.run.name, self.directory.root / "tracking")
        run_id = self.tracker.start_run(
            f"{config.run.name}-seed{config.run.seed}",
            flat(shown(config)),
            self._tags
            | {"mgrd.run_dir": str(self.directory.root), "mgrd.model": str(config.model.path or config.model.name)},
            run_id=self.state.get("mlflow_run_id"),
        )
        first = "mlflow_run_id" not in self.state
        self.state["mlflow_run_id"] = run_id
        self.directory.write_state(self.state)
        self.observer.tracked(run_id, uri)
        if first or self.state["changed"]:
            suffix = "" if first else f".{self.state['starts']}"
            self.tracker.text(f"config{suffix}.yaml", to_yaml(shown(lasting(config))))
            self.tracker.text(f"rewards{suffix}.json", json.dumps(self.reward.versions, indent=1))
        if first:
            for name, file in self.questions.files.items():
                self.tracker.dataset(file, self.questions.digests[name], name)
        self.parts = Parts(
            config,
            self.directory,
            self.tracker,
            self.progress,
            model_path=model_path,
            reward=self.reward,
            observer=self.observer,
            gang=self._namespace,
        )
        try:
            self.parts.start(redis_url, run_id)
        except BaseException as error:
            status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
            self.tracker.finish(status, f"start: {type(error).__name__}: {error}")
            self.parts.stop()
            raise
        self.state["kernels"] = self.parts.trainer.kernels

    def _stages(self) -> dict[str, Any]:
        config = self.config
        conductor = Conductor(
            config,
            self.directory,
            self.state,
            tracker=self.tracker,
            parts=self.parts,
            questions=self.questions,
            changed=self.state["changed"],
            save=self._save,
        )
        stages = stages_of(config)
        self.observer.planned([stage.name for stage in stages], updates_of(stages, config))
        results = conductor.run(stages, RUNNERS)
        self._save()
        facts = RunFacts(config, self.state, self.directory, self.tracker.tracking_uri, conductor.manifests)
        report = mgrd_report(facts, results) if config.pipeline.recipe == "mgrd" else rl_report(facts, results)
        if config.pipeline.recipe == "mgrd" and config.pipeline.promotion.enabled:
            report["promotion"] = self._promote(report, conductor.manifests["export"].mlflow_run)
        write_report(self.directory, report)
        self.tracker.log(report["policy_updates"], report_metrics(report))
        self.tracker.artifact(str(self.directory.report_file), "report.json")
        if config.pipeline.recipe == "mgrd":
            write_curve(report, self.directory.root / "curve")
            for path in sorted((self.directory.root / "curve").iterdir()):
                self.tracker.artifact(str(path), f"curve/{path.name}")
        self.tracker.finish("FINISHED")
        return report

    def _promote(self, report: dict[str, Any], export_run: str) -> dict[str, Any]:
        """Whether the final model became champion, and why not. A registry that does not answer leaves the champion as it is."""
        left = self.tracker.flush()
        rails = parse_guardrails(self.config.pipeline.promotion.guardrails)
        name = f"mgrd-{self.config.run.name}"
        try:
            if left or not export_run:
                raise PromotionError(
                    f"MLflow has not taken the model yet; promote it later with `mgrd model promote {name}`"
                )
            outcome = promote(self.tracker.tracking_uri, name, export_run, report["curve"][-1], rails)
        except PromotionError as error:
            self.progress.note(f"not promoted: {error}")
            return {"promoted": False, "reasons": [str(error)]}
        reasons = [str(violation) for violation in outcome.violations]
        said = "is champion" if outcome.promoted else f"is not champion: {'; '.join(reasons)}"
        self.progress.note(f"version {outcome.version} of {name} {said}")
        return {
            "promoted": outcome.promoted,
            "model": name,
            "version": outcome.version,
            "champion": outcome.champion,
            "reasons": reasons,
        }

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        begin = time.monotonic()
        yield
        spent = self.state.setdefault("stage_seconds", {})
        spent[name] = spent.get(name, 0.0) + time.monotonic() - begin

    def _save(self) -> None:
        """The run's state on disk, with the time it has taken so far."""
        now = time.monotonic()
        self.state["seconds"] += now - self._mark
        self._mark = now
        self.directory.write_state(self.state)


__all__ = ["Controller", "MgrdError", "RunFailed"]

"""Walks through the stages of a run: skips those that still hold, resumes the one that was cut off, keeps a manifest of each.

Neighbours: `controller` starts and stops everything around it, `pipeline` says which stages there are, `stages` do the work.
Invariants: a stage's manifest is written after all it names; weights change hands only by named checkpoints; engines and trainer
hold the same version whenever a stage begins; a stage is never run again while its manifest holds; a trainer that was lost is started
again and the stage goes on at its last checkpoint, by the same steps as when a run is resumed.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from actor import StageSettings, TrainerDied
from orchestrator import chaos
from orchestrator.checkpoint_keeper import CheckpointKeeper
from orchestrator.checkpoint_mirror import mirror_of
from orchestrator.checkpoints import CHECKPOINT_PREFIX
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data_stage import Questions
from orchestrator.errors import RunFailed, RunPaused
from orchestrator.lineage import describe
from orchestrator.manifest import Manifest, digest_of, file_digest, inputs_of, mismatch, read_manifest, weights_digest
from orchestrator.parts import Parts
from orchestrator.pipeline import SCORED_BY, Stage, settings_of
from orchestrator.preflight import examiner_versions, judge_versions
from orchestrator.revival import Revivals
from orchestrator.rundir import RunDirectory
from orchestrator.stages.context import StageContext
from orchestrator.tracking import Tracker

log = logging.getLogger(__name__)
Runner = Callable[[StageContext], dict[str, Any]]
LINEAGE_WAIT_S = 20.0  # for MLflow to say under which id it keeps a stage


class Conductor:
    """One walk. `state` is the run's durable state, shared with the controller, which writes it by `save`."""

    def __init__(
        self,
        config: ExperimentConfig,
        directory: RunDirectory,
        state: dict[str, Any],
        *,
        tracker: Tracker,
        parts: Parts,
        questions: Questions,
        changed: bool,
        save: Callable[[], None],
    ) -> None:
        self.config = config
        self.directory = directory
        self.state = state
        self.tracker = tracker
        self.parts = parts
        self.questions = questions
        self.changed = changed
        self._save = save
        self.manifests: dict[str, Manifest] = {}
        self.seconds: dict[str, float] = state.setdefault("stage_seconds", {})
        self._model = ""  # checkpoint that ended the last training stage; "": the base
        self._models: list[str] = []
        self._base = weights_digest(parts.model_path)
        self._examiner = examiner_versions(config) if config.pipeline.recipe == "mgrd" else {}
        self._judge = judge_versions(config) if config.pipeline.recipe == "mgrd" else {}
        asked = config.run.checkpoint_async
        self.keeper = CheckpointKeeper(
            directory.checkpoints,
            parts.trainer,
            config.run,
            background=config.actor.device == "cuda" if asked is None else asked,
            mirror=mirror_of(config.run.checkpoint_url, directory.root),
        )
        self._revivals = Revivals(state, config.actor.restarts)
        self._updates = 0  # policy updates of the stages so far
        self._held: tuple[str, int] = ("", 0)  # (checkpoint, version) that engines and trainer hold

    def run(self, stages: Sequence[Stage], runners: Mapping[str, Runner]) -> dict[str, dict[str, Any]]:
        """Results by stage. Raises what the stages raise."""
        try:
            results = self._walk(stages, runners)
        except RunPaused:
            self.keeper.close()  # what the pause promised to go on with
            raise
        self.keeper.close()
        return results

    def _walk(self, stages: Sequence[Stage], runners: Mapping[str, Runner]) -> dict[str, dict[str, Any]]:
        observer = self.parts.observer
        for stage in stages:
            manifest = self._finished(stage)
            before = manifest is not None
            if manifest is None:
                if pause := observer.pause():
                    raise pause
                observer.stage_began(stage.name)
                manifest = self._see_through(stage, runners[stage.kind])
            else:
                self._put_down(stage)
            observer.stage_ended(stage.name, manifest.seconds, before=before)
            self.manifests[stage.name] = manifest
            if stage.trains:
                self._model = manifest.model
                self._models.append(manifest.model)
            self._updates = manifest.result.get("last_update", self._updates)
        return {name: manifest.result for name, manifest in self.manifests.items()}

    def _folder(self, stage: Stage) -> Path:
        return self.directory.root / "stages" / stage.name

    def _settings(self, stage: Stage) -> dict[str, Any]:
        scored_by = SCORED_BY.get(stage.kind, "")
        functions: dict[str, str] = {}
        if scored_by in ("reward", "both"):
            functions |= self.state.get("rewards", {})
        if scored_by in ("examiner", "both"):
            functions |= {f"examiner/{name}": version for name, version in self._examiner.items()}
        if stage.kind == "distil":
            functions |= {f"judge/{name}": version for name, version in self._judge.items()}
        return settings_of(stage, self.config) | {"functions": functions}

    def _inputs(self, stage: Stage) -> dict[str, str]:
        return inputs_of(stage.needs, self.questions.digests, self._model, self._base, self.manifests)

    def _finished(self, stage: Stage) -> Manifest | None:
        """The manifest of a stage that need not be run. What no longer holds is said, and made again."""
        folder = self._folder(stage)
        manifest = read_manifest(folder)
        if manifest is None:
            return None
        inputs, seed = self._inputs(stage), self.config.run.seed
        reason = mismatch(manifest, folder, settings=None, inputs=inputs, seed=seed)
        if not reason and stage.trains and not self.keeper.has(manifest.model):
            reason = f"its checkpoint {manifest.model} is gone"
        changed = mismatch(manifest, folder, settings=self._settings(stage), inputs=inputs, seed=seed)
        if not reason and changed and self.config.run.redo:
            reason = changed
        if reason:
            self.parts.progress.note(f"{stage.name}: run again, {reason}")
            return None
        remark = f" ({changed}; run.redo=true makes it again)" if changed else ""
        self.parts.progress.note(f"{stage.name}: done before, not run again{remark}")
        return manifest

    def _see_through(self, stage: Stage, runner: Runner) -> Manifest:
        """`_perform`, again after each death of the trainer that another world may get over."""
        while True:
            try:
                return self._perform(stage, runner)
            except TrainerDied as death:
                self._start_again(stage, death)

    def _start_again(self, stage: Stage, death: TrainerDied) -> None:
        """Another trainer in the same places, as fresh as when a run is resumed. Raises `death`, or that of a successor, when it is
        not to be tried again."""
        while True:
            began = time.monotonic()
            self.keeper.abandon()
            record = self._revivals.take(death)
            self._save()
            if record is None:
                raise death
            at = record["checkpoint"] or self._model or "the base model's weights"
            self.parts.progress.note(
                f"{stage.name}: {death}; start {self._revivals.in_a_row()} of {self.config.actor.restarts} at this place, from {at}"
            )
            try:
                self.parts.restart_trainer()
                if not (record["checkpoint"] or self._model) and self.parts.pool.version:
                    self.parts.publish(0)
            except TrainerDied as another:
                death = another
                death.add_note(f"stage {stage.name}")
                continue
            self._held = ("", 0)
            record["start_s"] = round(time.monotonic() - began, 2)
            self._save()
            self.tracker.restarted(self._revivals.deaths)
            self.parts.progress.note(f"{stage.name}: the trainer is up again after {record['start_s']:.1f} s")
            return

    def _perform(self, stage: Stage, runner: Runner) -> Manifest:
        begin = time.monotonic()
        settings, inputs = self._settings(stage), self._inputs(stage)
        working = self._take_up(stage, settings, inputs)
        context = StageContext(
            stage=stage,
            folder=self._folder(stage),
            parts=self.parts,
            questions=self.questions,
            progress=dict(working["progress"]),
            results={name: self.manifests[name].result for name in stage.needs},
            model=self._model,
            version=self._held[1],
            models=tuple(self._models),
            updates_before=self._updates,
            changed=self.changed,
            _keep=lambda *kept: self._keep(context, *kept),
            _borrow=self._hold,
            _resume=lambda asked: self._hold(self.state["working"]["checkpoint"], asked),
            _settle=lambda: self.keeper.settle(wait=False),
        )
        outer = self.parts.tracker
        attempt = self.state["attempts"][stage.name]
        with self.tracker.child(stage.name if attempt == 1 else f"{stage.name} (attempt {attempt})") as child:
            self.parts.tracker = child
            try:
                result = runner(context)
                child.text(f"{stage.name}.json", json.dumps(result, indent=1))
                model = self._name_model(stage, context)
                manifest = Manifest(
                    stage=stage.name,
                    kind=stage.kind,
                    iteration=stage.iteration,
                    settings_sha256=digest_of(settings),
                    settings=settings,
                    inputs=inputs,
                    seed=self.config.run.seed,
                    started_from=self._model,
                    model=model,
                    weights_version=context.version,
                    counts=context.counts,
                    files={name: file_digest(context.folder / name) for name in context.files},
                    result=result,
                    settings_before=working["settings_before"],
                    mlflow_run=self.tracker.run_id_of(child, LINEAGE_WAIT_S),
                    seconds=self.seconds.get(stage.name, 0.0) + time.monotonic() - begin,
                )
                describe(child, manifest, self.manifests)
            except Exception as error:
                error.add_note(f"stage {stage.name}")
                raise
            finally:
                self.parts.tracker = outer
                self.seconds[stage.name] = self.seconds.get(stage.name, 0.0) + time.monotonic() - begin
        manifest.write(context.folder)
        chaos.point(f"stage:{stage.name}:done")
        self._put_down(stage)
        return manifest

    def _put_down(self, stage: Stage) -> None:
        """Ends the work on a stage that has its manifest; also where the process died between the two."""
        if self.state.get("working", {}).get("stage") != stage.name:
            return
        self.state.pop("working")
        self.changed = False  # a later stage has nothing from before the change
        self.state["changed"] = False
        self._save()

    def _take_up(self, stage: Stage, settings: dict[str, Any], inputs: dict[str, str]) -> dict[str, Any]:
        """What a stage that was cut off had kept; else a new beginning. The weights it starts from are held when this returns, unless
        it goes on at a checkpoint of its own, which it then takes up itself (`StageContext.resume`)."""
        working = self.state.get("working", {})
        same = working.get("stage") == stage.name and working.get("inputs") == inputs
        if same and not (self.config.run.redo and working["settings"] != settings):
            if working["settings"] != settings:
                working["settings_before"].append(working["settings"])
                working["settings"] = settings
            if working["progress"]:
                self.parts.progress.note(f"{stage.name}: resumed")
            if not working["checkpoint"]:
                self._hold(self._model)
            return working
        self._hold(self._model)
        self.directory.checkpoints.forget(stage.name)
        shutil.rmtree(self._folder(stage), ignore_errors=True)  # what an attempt with other inputs left
        attempts = self.state.setdefault("attempts", {})
        attempts[stage.name] = attempts.get(stage.name, 0) + 1
        self.state["working"] = {
            "stage": stage.name,
            "inputs": inputs,
            "settings": settings,
            "settings_before": [],
            "progress": {},
            "checkpoint": "",
        }
        self._save()
        return self.state["working"]

    def _hold(self, checkpoint: str, settings: StageSettings | None = None) -> int:
        """The weights of a checkpoint in trainer and engines; nothing is done where they are there already."""
        if self._held[0] != checkpoint or settings is not None:
            if not checkpoint:
                raise RunFailed(
                    "the base model's own weights are needed again after training has begun; start the run anew in another run.dir"
                )
            folder, kept = self.keeper.open(checkpoint)
            version = kept["version"]
            self.parts.trainer.load(str(folder), settings)
            self.parts.publish(version)
            self._held = (checkpoint, version)
            self.parts.progress.note(f"weights of {folder.parent}")
        return self._held[1]

    def _keep(
        self,
        context: StageContext,
        progress: dict[str, Any],
        checkpoint: str,
        metrics: Mapping[str, float],
        then: Callable[[], None],
    ) -> None:
        kept = json.loads(json.dumps(progress))  # as it is now: the stage goes on while the checkpoint is written
        if checkpoint:
            self._checkpoint(context, checkpoint, kept, lambda: self._kept(kept, checkpoint, then), metrics)
            return
        self.keeper.settle(wait=True)
        self._kept(kept, "", then)

    def _kept(self, progress: dict[str, Any], checkpoint: str, then: Callable[[], None]) -> None:
        working = self.state["working"]
        working["progress"] = progress
        working["checkpoint"] = checkpoint or working["checkpoint"]
        self._save()
        then()

    def _checkpoint(
        self,
        context: StageContext,
        name: str,
        progress: dict[str, Any],
        then: Callable[[], None],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        version = context.version

        def named() -> None:
            self._held = (name, version)
            self.state |= {"checkpoint": name, "version": version}
            then()

        state = {"version": version, "progress": progress}
        update = progress.get("update", -1)
        self.keeper.begin(name, state, stage=context.stage.name, update=update, metrics=metrics, named=named)

    def _name_model(self, stage: Stage, context: StageContext) -> str:
        """The checkpoint that a training stage ends with, under the stage's own name."""
        if not stage.trains:
            return self._model
        self.keeper.settle(wait=True)
        last = self.state.get("working", {}).get("checkpoint", "")
        if last.startswith(CHECKPOINT_PREFIX) and self._held == (last, context.version):
            self.keeper.link(last, stage.name)
            self._held = (stage.name, context.version)
            self.state |= {"checkpoint": stage.name, "version": context.version}
        else:
            self._checkpoint(context, stage.name, {}, lambda: None)
            self.keeper.settle(wait=True)
        return stage.name

"""From a trainer's running save to a named, mirrored checkpoint, and back to what a resumed run loads.

Neighbours: `conductor` begins and takes up checkpoints, `checkpoints` holds the names, `checkpoint_mirror` the copies elsewhere.
Invariants: at most one checkpoint is unfinished; it gets its name after every rank has written and sealed its share, and only then
is `named` called, where the caller lets go of what the checkpoint now holds (ledger, progress); a write that failed is raised by the
next call, and the former checkpoint stays the one a resumed run goes on with.
"""

from __future__ import annotations

import difflib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from orchestrator import chaos
from orchestrator.checkpoint_mirror import CheckpointMirror
from orchestrator.checkpoints import TRAINER, CheckpointShelf, Metric
from orchestrator.config.schema import RunConfig
from orchestrator.errors import RunFailed


class Saver(Protocol):
    """What it needs of `actor.TrainerGroup`."""

    def save(self, directory: str | Path, *, wait: bool = True) -> None: ...

    def save_written(self) -> bool: ...

    def finish_save(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Unfinished:
    name: str
    state: str
    about: dict[str, Any]
    named: Callable[[], None]


class CheckpointKeeper:
    """Checkpoints of one run. background: training goes on while the trainer writes."""

    def __init__(
        self,
        shelf: CheckpointShelf,
        trainer: Saver,
        settings: RunConfig,
        *,
        background: bool,
        mirror: CheckpointMirror | None = None,
    ) -> None:
        self.shelf = shelf
        self._trainer = trainer
        self._settings = settings
        self._metric = Metric.parse(settings.best_metric)
        self._metric_is_known = False
        self._background = background
        self._mirror = mirror
        self._unfinished: _Unfinished | None = None

    def begin(
        self,
        name: str,
        state: Mapping[str, Any],
        *,
        stage: str,
        update: int = -1,
        metrics: Mapping[str, float] | None = None,
        named: Callable[[], None],
    ) -> None:
        """Write a checkpoint `name` that holds `state` (as it is now), in the background if that is asked for. named: called when
        it has its name. Raises RunFailed when `metrics` lack the one that checkpoints are compared by, and what `settle` raises."""
        self.settle(wait=True)
        text = json.dumps(dict(state))
        about = {
            "stage": stage,
            "update": update,
            "version": state["version"],
            "metrics": dict(metrics or {}),
            "written": time.time(),
        }
        self._trainer.save(str(self.shelf.begin(name) / TRAINER), wait=not self._background)
        chaos.point(f"checkpoint:{name}:begun")
        self._unfinished = _Unfinished(name, text, about, named)
        self.settle(wait=not self._background)
        if metrics:
            self._know_metric(metrics)

    def settle(self, *, wait: bool) -> None:
        """Name the unfinished checkpoint if every rank has written; wait: let them. Raises what the trainer raises for a write
        that failed, RunFailed for a disk or a URL that refuses."""
        unfinished = self._unfinished
        if unfinished is None or not (wait or self._trainer.save_written()):
            return
        self._unfinished = None
        if self._background:
            self._trainer.finish_save()
        chaos.point(f"checkpoint:{unfinished.name}:written")
        path = self.shelf.complete(unfinished.name, unfinished.state, unfinished.about)
        chaos.point(f"checkpoint:{unfinished.name}:named")
        unfinished.named()
        self._send(path)
        self._drop()

    def abandon(self) -> None:
        """Forget the unfinished checkpoint: the trainer that wrote it is gone. The next one clears its files away."""
        self._unfinished = None

    def link(self, name: str, alias: str) -> None:
        """A second name for a checkpoint, here and where it is mirrored."""
        self._send(self.shelf.link(name, alias))

    def open(self, name: str) -> tuple[Path, dict[str, Any]]:
        """Folder of the trainer's files and the state kept with them; fetched from the mirror when it is gone or torn here. Raises
        RunFailed naming what is damaged."""
        self.settle(wait=True)
        if self._mirror is not None and not self.shelf.is_whole(name) and self._mirror.has(name):
            self._mirror.fetch(name, self.shelf.begin(name))
            self.shelf.adopt(name)
        folder, state = self.shelf.open(name)
        return folder, json.loads(state)

    def has(self, name: str) -> bool:
        """Whether there is one of this name, here or in the mirror; `open` tells whether it is whole."""
        return self.shelf.path(name).is_dir() or (self._mirror is not None and self._mirror.has(name))

    def close(self) -> None:
        """Returns when everything has its name and its copy. Raises as `settle` does."""
        self.settle(wait=True)
        if self._mirror is not None:
            self._mirror.wait()
            self._drop()

    def _send(self, path: Path) -> None:
        if self._mirror is not None:
            self._mirror.send(path)

    def _drop(self) -> None:
        newest, best = self._settings.keep_checkpoints, self._settings.keep_best
        busy = self._mirror.busy if self._mirror is not None else set()
        self.shelf.drop(newest=newest, best=best, metric=self._metric, busy=busy)
        if self._mirror is not None and not busy:
            self._mirror.drop(newest=newest, best=best, metric=self._metric)

    def _know_metric(self, metrics: Mapping[str, float]) -> None:
        """Raises RunFailed once, at the first checkpoint that could be compared: by then it has its name and nothing is lost."""
        if not self._settings.keep_best or self._metric_is_known:
            return
        name = self._metric.name
        if name not in metrics:
            near = difflib.get_close_matches(name, metrics, n=1)
            raise RunFailed(
                f"run.best_metric = {self._settings.best_metric!r}: no policy update records {name!r}"
                + (f"; did you mean {near[0]!r}?" if near else "")
                + f" There are: {', '.join(sorted(metrics))}"
            )
        self._metric_is_known = True

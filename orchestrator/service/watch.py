"""A scheduler's care for the experiments it holds: their jobs looked at, wishes carried out, ends noticed.

Neighbours: `scheduler` calls `tend` each round for what it owns; `launcher` knows the jobs, `retries` what follows a failure, `store` takes
what came of it. Invariants: nothing is settled before its job is known to have ended; what a job has said itself is never overruled; a
job is looked at again and again, so that a look that failed costs nothing but time.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from orchestrator.service.launcher import JobState, JobView, Launcher
from orchestrator.service.messages import Cause, Experiment, State, Wanted
from orchestrator.service.ray_api import RayRefused
from orchestrator.service.retries import RetrySettings, after_failure
from orchestrator.service.states import ACTIVE
from orchestrator.service.store import Store

LOOK_S = 2.0  # between two looks at a job of which nothing is wanted
STOP_AGAIN_S = 5.0
START_LIMIT_S = 900.0  # from the launch to the job's first word; a cluster may have to fetch an image first
log = logging.getLogger(__name__)


@dataclass
class Watch:
    """counts: what was done, by name, for the metrics. clock: seconds since 1970."""

    store: Store
    launcher: Launcher
    retries: RetrySettings
    counts: Counter[str]
    start_limit_s: float = START_LIMIT_S
    look_s: float = LOOK_S
    clock: Callable[[], float] = time.time
    _looked: dict[str, float] = field(default_factory=dict)
    _stopped: dict[str, float] = field(default_factory=dict)

    def launch(self, experiment: Experiment) -> None:
        """Its present attempt, which this scheduler has claimed. Raises RayAway: then the next `tend` does it."""
        try:
            self.launcher.launch(experiment)
        except RayRefused as error:
            self._failed(experiment, str(error))
            return
        self.counts["launched"] += 1
        log.info("%s: launched as job %s", experiment.id, experiment.job)

    def tend(self, experiment: Experiment) -> None:
        """One of this scheduler's active experiments, as it was read at the beginning of the round. Raises RayAway, StoreError."""
        now = self.clock()
        hurried = experiment.wanted is Wanted.CANCEL
        if not hurried and now - self._looked.get(experiment.job, 0.0) < self.look_s:
            return
        self._looked[experiment.job] = now
        view = self.launcher.look(experiment.job)
        if experiment.wanted is Wanted.CANCEL:
            self._cancel(experiment, view)
        elif view.state is JobState.UNKNOWN and experiment.state is State.STARTING:
            self.launch(
                experiment
            )  # its scheduler died between claim and launch, or Ray forgot it before it said a word
        elif view.over:
            self._vanished(experiment, view)
        elif experiment.state is State.STARTING and now - experiment.started_at > self.start_limit_s:
            log.warning("%s: job %s said nothing for %.0f s", experiment.id, experiment.job, self.start_limit_s)
            self._stop(experiment)

    def forget_all_but(self, jobs: set[str]) -> None:
        """Of jobs that this scheduler looks after no more nothing is kept."""
        for known in (self._looked, self._stopped):
            for job in known.keys() - jobs:
                del known[job]

    def _cancel(self, experiment: Experiment, view: JobView) -> None:
        if not view.over:
            self._stop(experiment)
        elif not self.launcher.leftovers(experiment.job):
            self._settle(experiment, State.CANCELLED, "cancelled on request")

    def _stop(self, experiment: Experiment) -> None:
        now = self.clock()
        if now - self._stopped.get(experiment.job, 0.0) >= STOP_AGAIN_S:
            self._stopped[experiment.job] = now
            self.launcher.stop(experiment.job)
            self.counts["stopped"] += 1

    def _vanished(self, experiment: Experiment, view: JobView) -> None:
        """The job has ended; if it had said what became of the run, the store knows by now."""
        present = self.store.get(experiment.id)
        if present.state not in ACTIVE or present.lease != experiment.lease:
            return
        if present.wanted is Wanted.CANCEL:
            self._cancel(present, view)
            return
        status = "" if view.exit_code is None else f" (exit status {view.exit_code})"
        self._failed(present, f"job {present.job} ended without a result{status}: {view.said}")

    def _failed(self, experiment: Experiment, reason: str) -> None:
        """An attempt that infrastructure ended: tried again while there is budget."""
        cause = Cause.INFRASTRUCTURE
        retry = after_failure(
            experiment.id,
            cause,
            experiment.retries,
            reason,
            update=experiment.progress.update,
            now=self.clock(),
            settings=self.retries,
        )
        state = State.QUEUED if retry.again else State.FAILED
        paused = retry.again and experiment.wanted is Wanted.PAUSE  # no other try follows until its user resumes it
        said = reason if paused else retry.reason
        self._settle(experiment, state, said, cause=cause, not_before=retry.not_before, retry_of=retry.retry_of)

    def _settle(
        self,
        experiment: Experiment,
        state: State,
        reason: str,
        *,
        cause: Cause = Cause.NONE,
        not_before: float = 0.0,
        retry_of: str = "",
    ) -> None:
        after = self.store.settle(
            experiment.id,
            experiment.lease,
            state,
            reason=reason,
            cause=cause,
            not_before=not_before,
            retry_of=retry_of,
        )
        if after is None:
            log.info("%s: somebody else has settled it", experiment.id)
            return
        self.counts["retried" if after.state is State.QUEUED else str(after.state)] += 1
        log.info("%s: %s: %s", experiment.id, after.state, reason)

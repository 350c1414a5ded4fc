"""One attempt of an experiment, as Ray runs it: the run itself, watched, and its last word to the store.

    python -m orchestrator.service.job ID ATTEMPT FILE      (FILE: the launcher's, with MGRD_REDIS_URL, MGRD_MLFLOW_URI, MGRD_REDIS_PREFIX)

Neighbours: `launcher` starts it, `scheduler` watches it from outside, the controller does the work. Invariants: it says what became of
the run (`Store.finish`), except where infrastructure failed or a signal ended it: then it leaves without a word, and the scheduler
decides; a fenced attempt ends at once and touches nothing more; what it prints last is the reason.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path
from types import FrameType

import msgspec
from rich.console import Console

from orchestrator.config.compose import from_text
from orchestrator.config.schema import ExperimentConfig
from orchestrator.errors import MgrdError
from orchestrator.service.blame import Ending, ending_of
from orchestrator.service.launcher import namespace_of
from orchestrator.service.messages import Cause, Experiment, State
from orchestrator.service.observer import ReportingObserver
from orchestrator.service.reporter import Reporter
from orchestrator.service.store import PREFIX, Store
from orchestrator.service.store_errors import Fenced, NoSuchExperiment, StoreError

REPORT_PATIENCE_S = 2.0  # of one report; the reporter tries again by itself
LAST_WORD_S = 900.0  # how long the last word is tried to be said; a run that has succeeded is worth the wait
FAREWELL_S = 5.0  # for reports that still wait at the end
log = logging.getLogger(__name__)


class Exit(IntEnum):
    """Exit statuses of the job."""

    DONE = 0  # also a run that paused
    FAILED = 1
    REFUSED = 2
    INFRASTRUCTURE = 4
    FENCED = 5
    STOPPED = 130


@dataclasses.dataclass(frozen=True, slots=True)
class Addresses:
    """Of the service's servers, as the launcher gave them."""

    redis_url: str
    redis_prefix: str
    mlflow_uri: str
    ray_address: str

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Addresses:
        """Raises MgrdError when one is missing."""
        missing = [name for name in ("MGRD_REDIS_URL", "MGRD_MLFLOW_URI", "RAY_ADDRESS") if not environment.get(name)]
        if missing:
            raise MgrdError(f"{', '.join(missing)} not set: this is started by the service, not by hand")
        return cls(
            environment["MGRD_REDIS_URL"],
            environment.get("MGRD_REDIS_PREFIX") or PREFIX,
            environment["MGRD_MLFLOW_URI"],
            environment["RAY_ADDRESS"],
        )


def told(file: Path) -> dict[str, str]:
    """What the launcher wrote. Raises MgrdError."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, str])
    except (OSError, msgspec.MsgspecError) as error:
        raise MgrdError(
            f"{file} can't be read ({error}): the service's runs must lie on a volume that every machine sees, and belong to one user"
        ) from error


def config_of(experiment: Experiment, yaml: str, addresses: Addresses) -> ExperimentConfig:
    """The stored configuration with the service's own keys. A run goes on where its directory holds one. Raises ConfigError."""
    config = from_text(yaml, f"the configuration of {experiment.id}")
    resume = (Path(experiment.run_dir) / "state.json").exists()
    return dataclasses.replace(
        config,
        run=dataclasses.replace(config.run, dir=experiment.run_dir, resume=resume, progress=False),
        cluster=dataclasses.replace(
            config.cluster,
            ray_address=addresses.ray_address,
            redis_url=addresses.redis_url,
            mlflow_uri=addresses.mlflow_uri,
        ),
        reward=dataclasses.replace(config.reward, store=addresses.redis_url),
    )


def tags_of(experiment: Experiment) -> dict[str, str]:
    """Of the MLflow run: the user's own, then who and what it is to the service."""
    own = {"mgrd.experiment": experiment.id, "mgrd.user": experiment.user, "mlflow.user": experiment.user}
    return experiment.tags | own | ({"mgrd.sweep": experiment.parent} if experiment.parent else {})


def conduct(id: str, attempt: int, addresses: Addresses) -> int:
    """The whole attempt. Returns the exit status."""
    store = Store.from_url(addresses.redis_url, addresses.redis_prefix)
    try:
        experiment = store.get(id)
        store.running(id, attempt)
    except (Fenced, NoSuchExperiment) as error:
        return _said(Exit.FENCED, str(error))
    except StoreError as error:
        return _said(Exit.INFRASTRUCTURE, str(error))
    reports = Store.from_url(addresses.redis_url, addresses.redis_prefix, patience_s=REPORT_PATIENCE_S)
    reporter = Reporter(reports, id, attempt, _leave_at_once)
    reporter.start()
    try:
        _run(experiment, store.config(experiment.config_sha256), addresses, reporter)
        ending = Ending(State.SUCCEEDED, Cause.NONE, "")
    except KeyboardInterrupt:
        reporter.close(FAREWELL_S)
        return _said(Exit.STOPPED, "stopped by a signal")
    except Exception as error:
        log.warning("the run ended", exc_info=True)
        ending = ending_of(error)
        if ending.cause is Cause.RUN and not isinstance(error, (MgrdError, RuntimeError, OSError)):
            _last_word(store, reporter, id, attempt, ending)
            raise
    return _last_word(store, reporter, id, attempt, ending)


def _run(experiment: Experiment, yaml: str, addresses: Addresses, reporter: Reporter) -> None:
    from orchestrator.controller import Controller

    config = config_of(experiment, yaml, addresses)
    observer = ReportingObserver(reporter, experiment.progress)
    console = Console(no_color=True, width=160)
    Controller(config, console, observer, tags=tags_of(experiment), namespace=namespace_of(experiment.job)).run()


def _last_word(store: Store, reporter: Reporter, id: str, attempt: int, ending: Ending) -> int:
    """What became of it, told for as long as it takes; infrastructure's failures are left to the scheduler."""
    lost = reporter.close(LAST_WORD_S)
    if lost:
        log.warning("%d reports could not be delivered", lost)
    if ending.cause is Cause.INFRASTRUCTURE:
        return _said(Exit.INFRASTRUCTURE, ending.reason)
    deadline = time.monotonic() + LAST_WORD_S
    while True:
        try:
            store.finish(id, attempt, ending.state, reason=ending.reason, cause=ending.cause)
            break
        except (Fenced, NoSuchExperiment) as error:
            return _said(Exit.FENCED, str(error))
        except StoreError as error:
            if time.monotonic() > deadline:
                return _said(Exit.INFRASTRUCTURE, str(error))
            log.warning("the end of the run is told when Redis answers again: %s", error)
    statuses = {Cause.USER: Exit.REFUSED, Cause.RUN: Exit.FAILED}
    return _said(statuses.get(ending.cause, Exit.DONE), ending.reason or str(ending.state))


def _leave_at_once(reason: str) -> None:
    """Another attempt may own the run by now: nothing of this one is finished, closed or told any more."""
    _said(Exit.FENCED, reason)
    os._exit(Exit.FENCED)


def _said(status: Exit, reason: str) -> int:
    """The scheduler reads the last line of the job's output."""
    sys.stdout.write(" ".join(reason.split()) + "\n")
    sys.stdout.flush()
    return int(status)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: what is being closed is closed
    raise KeyboardInterrupt


def main(arguments: list[str]) -> int:
    signal.signal(signal.SIGTERM, _interrupt)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if len(arguments) != 3 or not arguments[1].isdigit():
        return _said(Exit.REFUSED, "usage: python -m orchestrator.service.job ID ATTEMPT FILE")
    try:
        return conduct(arguments[0], int(arguments[1]), Addresses.of(os.environ | told(Path(arguments[2]))))
    except MgrdError as error:
        return _said(Exit.REFUSED, str(error))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

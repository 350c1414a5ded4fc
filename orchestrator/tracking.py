"""The run's record in MLflow: one run an experiment, a nested run a stage.

Neighbours: the controller and its stages log here; `spool.py` keeps every record on disk, `mlflow_delivery.py` sends it.
Invariants: logging never waits for the server; what was logged survives an outage of the server and SIGKILL of this process; a step of
a metric is recorded once, also when a resumed run comes by it again; a run that fails ends FAILED and says why.

    tracker = Tracker("http://127.0.0.1:5000", "demo", run_dir / "tracking")
    run_id = tracker.start_run("demo-seed7", {"actor.ppo.clip_low": 0.2}, {})
    with tracker.child("reinforce") as stage:
        stage.log(1, {"reward/mean": 0.41})
    tracker.finish("FINISHED")
"""

from __future__ import annotations

import json
import logging
import math
import posixpath
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, SupportsFloat, TypeVar

from orchestrator.errors import RunPaused
from orchestrator.mlflow_delivery import Delivery, Refused, Unreachable
from orchestrator.spool import (
    MAIN,
    Artifact,
    DatasetInput,
    Finish,
    Metrics,
    Model,
    NestedRun,
    Params,
    Record,
    Spool,
    Tags,
    TrackingError,
)

CONNECT_TIMEOUT_S = 120.0
FLUSH_TIMEOUT_S = 120.0  # longer than the minute of outage that a run must get over
MAX_PARAM_CHARS = 500  # what every MLflow server takes; whole values are in the artifact params.json
RECORDS_A_ROUND = 500
BACKOFF_S = (0.25, 5.0)  # first and longest wait between tries; short, since the server is usually on this machine
STATUSES = ("FINISHED", "FAILED", "KILLED")

_Answer = TypeVar("_Answer")

log = logging.getLogger(__name__)


class Sender(threading.Thread):
    """Delivers a spool's records in order and waits out outages. Owns the delivery and the spool's state."""

    def __init__(self, spool: Spool, delivery: Delivery) -> None:
        super().__init__(name="tracking-sender", daemon=True)
        self.refused = 0
        self._spool = spool
        self._delivery = delivery
        self._news = threading.Event()
        self._leave = threading.Event()
        self._down_since = 0.0

    def wake(self) -> None:
        self._news.set()

    def flush(self, timeout_s: float) -> int:
        """Wait until all that was appended is delivered; returns how many records are left when the time is over."""
        deadline = time.monotonic() + timeout_s
        self.wake()
        while (left := self._spool.undelivered()) and time.monotonic() < deadline:
            if not self.is_alive():
                raise TrackingError(
                    f"the thread that sends tracking records died, see the log; they are kept in {self._spool.folder}"
                )
            time.sleep(0.02)
        return left

    def stop(self) -> None:
        self._leave.set()
        self._news.set()
        self.join()

    def run(self) -> None:
        wait_s = BACKOFF_S[0]
        while not self._leave.is_set():
            self._news.clear()
            batch = self._spool.pending(RECORDS_A_ROUND)
            if not batch:
                self._news.wait()
                continue
            try:
                self._send(batch)
            except Unreachable as error:
                self._note_outage(error)
                self._leave.wait(wait_s)
                wait_s = min(2 * wait_s, BACKOFF_S[1])
            else:
                wait_s = BACKOFF_S[0]
                self._note_recovery()

    def _send(self, batch: list[tuple[Record, int]]) -> None:
        """The leading metrics together, or the one record that comes first."""
        metrics: list[Metrics] = []
        end = 0
        for record, offset in batch:
            if not isinstance(record, Metrics) or record.run not in self._spool.state.runs:
                break
            metrics.append(record)
            end = offset
        if metrics:
            try:
                self._delivery.deliver_metrics(self._spool, metrics)
            except Refused:
                log.warning("a batch of %d metric records was refused, sending them one by one", len(metrics))
            else:
                self._spool.acknowledge(end, metrics[-1])
                return
        record, end = batch[0]
        try:
            self._delivery.deliver(self._spool, record)
        except Refused as error:
            self.refused += 1
            self._spool.refuse(record, str(error))
            log.error(
                "MLflow refused a %s record, set aside in %s/refused.jsonl: %s",
                type(record).__name__,
                self._spool.folder,
                error,
            )
        self._spool.acknowledge(end, record)

    def _note_outage(self, error: Unreachable) -> None:
        if not self._down_since:
            self._down_since = time.monotonic()
            log.warning(
                "MLflow does not answer; records wait in %s and are sent when it is back (%s)",
                self._spool.folder,
                error,
            )

    def _note_recovery(self) -> None:
        if self._down_since:
            log.warning("MLflow answers again after %.0f s", time.monotonic() - self._down_since)
            self._down_since = 0.0


class RunTracker:
    """Records of one run, the main one or a nested one. All methods return at once."""

    def __init__(self, run: str, owner: Tracker) -> None:
        self._run = run
        self._owner = owner

    @property
    def name(self) -> str:
        """Path of the run below the main one, as the spool names it."""
        return self._run

    def log(self, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
        """Metrics of one step. A step that an earlier process of this run recorded already is left as it is."""
        values = {}
        for name, value in metrics.items():
            _check_metric_name(name)
            if step > self._owner.recorded.get((self._run, name), -math.inf):
                try:
                    values[name] = float(value)
                except (TypeError, ValueError) as error:
                    raise TrackingError(f"metric {name!r} of step {step} is {value!r}, not a number") from error
        if values:
            self._owner.record(Metrics(self._run, step, _now_ms(), values))

    def tags(self, values: Mapping[str, object]) -> None:
        self._owner.record(Tags(self._run, {key: str(value) for key, value in values.items()}))

    def artifact(self, path: str | Path, name: str) -> None:
        """Store a copy of the file as it is now, under `name` (may hold folders), for example `audio/clip_7.wav`."""
        _check_artifact_name(name)
        self._owner.record(Artifact(self._run, self._owner.spool.stage(Path(path), name), name))

    def text(self, name: str, content: str) -> None:
        _check_artifact_name(name)
        self._owner.record(Artifact(self._run, self._owner.spool.stage_text(content, name), name))

    def html(self, name: str, content: str) -> None:
        """A page that MLflow shows as it is; audio in it has to be part of the page (data URLs)."""
        self.text(name if name.endswith(".html") else f"{name}.html", content)

    def dataset(self, path: str | Path, digest: str, name: str) -> None:
        """A data set that the run reads: the file, the digest of its content, and what it serves as (`train`, `held_out`)."""
        self._owner.record(DatasetInput(self._run, name, str(path), digest))

    def register_model(self, folder: str | Path, name: str, tags: Mapping[str, object]) -> None:
        """Store the folder with the run and register it as a new version of model `name`. The folder must stay until `finish`."""
        if not name or set(name) & set("/:"):
            raise TrackingError(f"model name {name!r}: must not be empty and must not hold / or :")
        if not Path(folder).is_dir():
            raise TrackingError(f"model folder {folder} does not exist: export the model first")
        self._owner.record(Model(self._run, str(folder), name, {key: str(value) for key, value in tags.items()}))

    def child(self, name: str) -> NestedTracker:
        """A nested run, new or, in a resumed run, the one of that name."""
        run = f"{self._run}/{name}"
        self._owner.record(NestedRun(run, self._run, name, _now_ms()))
        self._owner.open_children.add(run)
        return NestedTracker(run, self._owner)


class NestedTracker(RunTracker):
    """A stage's run. As a context manager it ends FINISHED, KILLED by Ctrl-C, or FAILED with the error as reason."""

    def finish(self, status: str = "FINISHED", reason: str = "") -> None:
        self._owner.record(Finish(self._run, _checked_status(status), reason, _now_ms()))
        self._owner.open_children.discard(self._run)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
        else:
            failed = isinstance(error, Exception) and not isinstance(error, RunPaused)
            self.finish("FAILED" if failed else "KILLED", f"{type(error).__name__}: {error}")


class Tracker(RunTracker):
    """The main run. Call `start_run` first and `finish` last. spool_dir: a folder of the run's directory, kept over restarts."""

    def __init__(self, tracking_uri: str, experiment: str, spool_dir: str | Path) -> None:
        super().__init__(MAIN, self)
        self.tracking_uri = tracking_uri
        self.run_id = ""
        self.recorded: dict[tuple[str, str], int] = {}  # (run, metric) → last step recorded before a resume or restart
        self.open_children: set[str] = set()
        self._spool_dir = Path(spool_dir)
        self._delivery = Delivery(tracking_uri)
        self._experiment = experiment
        self._spool: Spool | None = None
        self._sender: Sender | None = None
        self._finished = False

    def start_run(
        self,
        name: str,
        params: Mapping[str, object],
        tags: Mapping[str, object],
        *,
        run_id: str | None = None,
        timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> str:
        """Create the run, or go on with `run_id`. Waits for the server. Returns the run id. Raises TrackingError.

        params may be nested; long values are cut on the server and whole in the artifact params.json. A resumed run keeps its params.
        """
        flat = {key: str(value) for key, value in _flat(params)}
        texts = {key: str(value) for key, value in tags.items()}
        known = set(self._patiently(timeout_s, lambda: self._delivery.reopen_run(run_id))) if run_id else set()
        token = uuid.uuid4().hex
        self.run_id = run_id or self._patiently(
            timeout_s, lambda: self._delivery.open_run(self._experiment, name, texts, token)
        )
        self._spool = Spool(self._spool_dir / self.run_id)
        self._spool.state.runs[MAIN] = self.run_id
        self._spool.save()
        known |= self._remember()
        self._sender = Sender(self._spool, self._delivery)
        self._sender.start()
        if missing := {key: value[:MAX_PARAM_CHARS] for key, value in flat.items() if key not in known}:
            self.record(Params(MAIN, missing))
        if run_id:
            self.tags(texts)
        else:
            self.text("params.json", json.dumps(flat, indent=1, sort_keys=True))
        return self.run_id

    def restarted(self, deaths: Sequence[Mapping[str, object]]) -> None:
        """The run goes back to a checkpoint within this process: steps that are recorded already stay as they are. deaths: of the
        trainer so far, for people."""
        self._remember()
        self.tags({"mgrd.trainer_restarts": len(deaths)})
        self.text("trainer_deaths.json", json.dumps(list(deaths), indent=1))

    def _remember(self) -> set[str]:
        """What has been recorded of this run, on the server or still on its way: steps into `recorded`; returns names of params."""
        params: set[str] = set()
        for record in self.spool.everything():
            match record:
                case Metrics():
                    for metric in record.values:
                        key = record.run, metric
                        self.recorded[key] = max(record.step, self.recorded.get(key, record.step))
                case Params():
                    params |= set(record.values)
        return params

    def run_id_of(self, run: RunTracker, timeout_s: float) -> str:
        """The id under which MLflow keeps a nested run; "" when the server does not say in time."""
        deadline = time.monotonic() + timeout_s
        while run.name not in self.spool.state.runs and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.spool.state.runs.get(run.name, "")

    def record(self, record: Record) -> None:
        """Write a record to the spool; the sender does the rest."""
        self.spool.append(record)
        assert self._sender is not None
        self._sender.wake()

    @property
    def spool(self) -> Spool:
        if self._spool is None:
            raise TrackingError("the run has not started: call `start_run` first")
        return self._spool

    def flush(self, timeout_s: float = FLUSH_TIMEOUT_S) -> int:
        """Wait until all records are on the server; returns how many are left when the time is over."""
        assert self._sender is not None
        return self._sender.flush(timeout_s)

    def finish(self, status: str = "FINISHED", reason: str = "", *, timeout_s: float = FLUSH_TIMEOUT_S) -> int:
        """End the run and its open nested runs. Returns how many records could not be delivered in time: they stay in the spool."""
        _checked_status(status)
        if self._spool is None or self._sender is None or self._finished:
            return 0
        for run in sorted(self.open_children, reverse=True):
            self.record(Finish(run, status, reason, _now_ms()))
        self.open_children.clear()
        self.record(Finish(MAIN, status, reason, _now_ms()))
        left = self._sender.flush(timeout_s)
        self._sender.stop()
        self._spool.close()
        self._finished = True
        if left:
            log.error(
                "MLflow did not answer for %.0f s: %d tracking records are kept in %s and are sent when the run is resumed, or by "
                "orchestrator.tracking.deliver_pending",
                timeout_s,
                left,
                self._spool.folder,
            )
        return left

    def _patiently(self, timeout_s: float, ask: Callable[[], _Answer]) -> _Answer:
        """Ask the server until it answers. Raises TrackingError when it refuses or the time is over."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return ask()
            except Refused as error:
                raise TrackingError(f"MLflow at {self.tracking_uri} refused the run: {error}") from error
            except Unreachable as error:
                if time.monotonic() > deadline:
                    raise TrackingError(
                        f"MLflow at {self.tracking_uri} did not answer for {timeout_s:.0f} s: start it or correct cluster.mlflow_uri "
                        f"({error})"
                    ) from error
            time.sleep(BACKOFF_S[0])


def deliver_pending(tracking_uri: str, spool_dir: str | Path, *, timeout_s: float = FLUSH_TIMEOUT_S) -> int:
    """Send what runs that ended left in their spools under `spool_dir`. Returns how many records are still left."""
    left = 0
    for folder in sorted(path.parent for path in Path(spool_dir).glob("*/records.jsonl")):
        with Spool(folder) as spool:
            if not spool.undelivered():
                continue
            sender = Sender(spool, Delivery(tracking_uri))
            sender.start()
            left += sender.flush(timeout_s)
            sender.stop()
    return left


def _flat(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _check_metric_name(name: str) -> None:
    """The server's rule, applied where the mistake is made."""
    if not re.fullmatch(r"[\w.\-: /]{1,250}", name, re.ASCII) or not _is_plain_path(name):
        raise TrackingError(f"metric name {name!r}: use letters, digits, _ - . : / and spaces, as in `reward/mean`")


def _check_artifact_name(name: str) -> None:
    if not _is_plain_path(name):
        raise TrackingError(f"artifact name {name!r}: use a relative path such as `trajectories/update_10.html`")


def _is_plain_path(name: str) -> bool:
    return bool(name) and posixpath.normpath(name) == name and not name.startswith(("/", "..")) and name != "."


def _checked_status(status: str) -> str:
    if status not in STATUSES:
        raise TrackingError(f"run status {status!r}: use {', '.join(STATUSES)}")
    return status


def _now_ms() -> int:
    return int(time.time() * 1000)

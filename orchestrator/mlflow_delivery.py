"""What each tracking record means to MLflow.

Neighbours: `spool.py` (the records), `tracking.py` (sends them in order and waits out an outage).
Invariants: delivering a record twice leaves what delivering it once does (a reply may be lost after the server acted); metrics always
go in batches; a failure is either `Unreachable` (try again) or `Refused` (never will be taken), nothing else.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, assert_never

from orchestrator.spool import Artifact, DatasetInput, Finish, Metrics, Model, NestedRun, Params, Record, Spool, Tags

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_METRICS_A_CALL = 1000  # the server's limits on one batch
MAX_PARAMS_A_CALL = 100
MAX_TAG_CHARS = 5000
MAX_DIGEST_CHARS = 36
FAILURE_TAG = "failure.reason"
RETRIED_STATUS = (408, 425, 429)  # 4xx that mean "later", not "never"

_Row = TypeVar("_Row")


class Unreachable(Exception):
    """The server does not answer, or answers that it can't now."""


class Refused(Exception):
    """The server will not take this record, ever."""


@contextmanager
def _judged() -> Iterator[None]:
    """Turns what the MLflow client and its HTTP library raise into `Unreachable` or `Refused`."""
    import requests
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        status = error.get_http_status_code()
        if 400 <= status < 500 and status not in RETRIED_STATUS:
            raise Refused(error.message) from error
        raise Unreachable(error.message) from error
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else 500
        if 400 <= status < 500 and status not in RETRIED_STATUS:
            raise Refused(str(error)) from error
        raise Unreachable(str(error)) from error
    except requests.RequestException as error:
        raise Unreachable(str(error)) from error
    except FileNotFoundError as error:
        raise Refused(f"{error.filename} is gone") from error


class Delivery:
    """Talks to one tracking server. Not thread-safe: the sender owns it."""

    def __init__(self, tracking_uri: str) -> None:
        # The client's own retries (up to minutes inside one call) are replaced by the sender's, which can be watched and ended.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        self._client: MlflowClient = MlflowClient(tracking_uri, tracking_uri)

    def open_run(self, experiment: str, name: str, tags: Mapping[str, str], token: str) -> str:
        """Create a run, or find the one that an earlier try with the same token created. Returns its id."""
        with _judged():
            experiment_id = self._experiment_id(experiment)
            return self._create(
                experiment_id, name, {**tags, "mgrd.start": token}, "mgrd.start", int(time.time() * 1000)
            )

    def reopen_run(self, run_id: str) -> dict[str, str]:
        """Set a run that ended, or was killed, to running again. Returns its params. Raises Refused when there is no such run."""
        with _judged():
            run = self._client.get_run(run_id)
            if run.info.status != "RUNNING":
                self._client.update_run(run_id, status="RUNNING")
            return dict(run.data.params)

    def deliver_metrics(self, spool: Spool, records: Sequence[Metrics]) -> None:
        """Several steps of several runs, in as few calls as the server's limits allow."""
        from mlflow.entities import Metric

        by_run: dict[str, list[Metric]] = {}
        for record in records:
            rows = by_run.setdefault(record.run, [])
            rows += [Metric(key, value, record.time_ms, record.step) for key, value in record.values.items()]
        with _judged():
            for run, rows in by_run.items():
                for chunk in _chunks(rows, MAX_METRICS_A_CALL):
                    self._client.log_batch(spool.state.runs[run], metrics=chunk)

    def deliver(self, spool: Spool, record: Record) -> None:
        """Send one record. Raises Unreachable or Refused."""
        if not isinstance(record, NestedRun) and record.run not in spool.state.runs:
            raise Refused(f"its run {record.run!r} could not be created")
        with _judged():
            match record:
                case Metrics():
                    self.deliver_metrics(spool, [record])
                case Params():
                    self._params(spool.state.runs[record.run], record.values)
                case Tags():
                    self._tags(spool.state.runs[record.run], record.values)
                case NestedRun():
                    self._nested_run(spool, record)
                case Artifact():
                    self._artifact(spool, record)
                case DatasetInput():
                    self._dataset(spool.state.runs[record.run], record)
                case Model():
                    self._model(spool.state.runs[record.run], record)
                case Finish():
                    run_id = spool.state.runs[record.run]
                    if record.reason:
                        self._tags(run_id, {FAILURE_TAG: record.reason})
                    self._client.set_terminated(run_id, record.status, record.time_ms)
                case _:
                    assert_never(record)

    def _create(self, experiment_id: str, name: str, tags: Mapping[str, str], unique_tag: str, time_ms: int) -> str:
        """Id of the run whose `unique_tag` has the value in `tags`: found when an earlier try got no reply, else created."""
        found = self._client.search_runs([experiment_id], f"tags.`{unique_tag}` = '{tags[unique_tag]}'", max_results=1)
        if found:
            return str(found[0].info.run_id)
        short = {key: text[:MAX_TAG_CHARS] for key, text in tags.items()}
        return str(self._client.create_run(experiment_id, time_ms, short, name).info.run_id)

    def _experiment_id(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        for _ in range(2):  # the second look finds the one that another run created between our look and our try
            if (experiment := self._client.get_experiment_by_name(name)) is not None:
                return str(experiment.experiment_id)
            try:
                return str(self._client.create_experiment(name))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
        raise Refused(f"experiment {name!r} exists but can't be found")

    def _nested_run(self, spool: Spool, record: NestedRun) -> None:
        if record.run in spool.state.runs:
            self.reopen_run(spool.state.runs[record.run])
            return
        parent = self._client.get_run(spool.state.runs[record.parent]).info
        tags = {"mlflow.parentRunId": parent.run_id, "mgrd.nested": f"{spool.folder.name}:{record.run}"}
        spool.state.runs[record.run] = self._create(
            parent.experiment_id, record.name, tags, "mgrd.nested", record.time_ms
        )
        spool.save()

    def _params(self, run_id: str, values: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        for chunk in _chunks([Param(key, value) for key, value in values.items()], MAX_PARAMS_A_CALL):
            self._client.log_batch(run_id, params=chunk)

    def _tags(self, run_id: str, values: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(run_id, tags=[RunTag(key, value[:MAX_TAG_CHARS]) for key, value in values.items()])

    def _artifact(self, spool: Spool, record: Artifact) -> None:
        folder = str(Path(record.path).parent)
        staged = spool.folder / record.staged
        self._client.log_artifact(spool.state.runs[record.run], str(staged), None if folder == "." else folder)

    def _dataset(self, run_id: str, record: DatasetInput) -> None:
        from mlflow.entities import Dataset, InputTag
        from mlflow.entities import DatasetInput as Input

        dataset = Dataset(
            record.name,
            record.digest[:MAX_DIGEST_CHARS],
            source_type="local",
            source=json.dumps({"uri": record.source}),
            profile=json.dumps({"digest": record.digest}),
        )
        self._client.log_inputs(run_id, datasets=[Input(dataset, [InputTag("mlflow.data.context", record.name)])])
        self._tags(run_id, {f"dataset.{record.name}.digest": record.digest})

    def _model(self, run_id: str, record: Model) -> None:
        """Store the folder with the run and register it; its version carries the digests of the run's data sets besides its own tags."""
        from mlflow.exceptions import MlflowException

        self._client.log_artifacts(run_id, record.folder, "model")
        try:
            self._client.create_registered_model(record.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        if self._client.search_model_versions(f"name = '{record.name}' and run_id = '{run_id}'"):
            return  # an earlier try that got no reply
        run_tags = self._client.get_run(run_id).data.tags
        lineage = {key: value for key, value in run_tags.items() if key.startswith("dataset.")}
        tags = {key: value[:MAX_TAG_CHARS] for key, value in {**lineage, **record.tags}.items()}
        self._client.create_model_version(record.name, f"runs:/{run_id}/model", run_id, tags=tags, await_creation_for=0)


def _chunks(rows: Sequence[_Row], size: int) -> Iterable[Sequence[_Row]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))

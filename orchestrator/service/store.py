"""Experiments in Redis: the queue, the leases, the reports of jobs, the events. The service's only shared state.

Neighbours: `api` calls the users' part, `scheduler` and `job` theirs; `states.py` says what may follow what; the scripts of `lua/` do
every change together with its event. Invariants: no change without its event; a scheduler writes with its lease, a job with its
attempt, and an old one changes nothing; a call that is sent again after a lost connection takes effect once. Keys lie in one hash slot.
"""

from __future__ import annotations

import dataclasses
import math
import re
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from orchestrator.service import store_text
from orchestrator.service.messages import (
    Cause,
    Demand,
    Experiment,
    Progress,
    Quota,
    SampledTrajectory,
    State,
    Wanted,
)
from orchestrator.service.states import ACTIVE, ENDED, FOLLOWS, RESUMABLE
from orchestrator.service.store_errors import Fenced, IdTaken, KeyReused, NotPossible
from orchestrator.service.store_link import PATIENCE_S, Link, joined
from orchestrator.service.store_reader import StoreReader
from orchestrator.service.store_text import text

PREFIX = "mgrd:"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,159}")  # ids of experiments and jobs: also names of files and keys
HEARTBEATS_AT_ONCE = 100  # about 7 ms of the server
KEY_KEPT_S = 24 * 3600  # how long an idempotency key is remembered
SAMPLES_KEPT = 48  # of each experiment


def before(state: State, among: Iterable[State] = State) -> str:
    """Which of the states `among` may be followed by `state`, as the scripts take them."""
    return joined([earlier for earlier in among if state in FOLLOWS[earlier]])


class Store(StoreReader):
    """Thread-safe. Every method raises StoreError when Redis does not answer within the patience."""

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        self._round = threading.local()

    @classmethod
    def from_url(cls, url: str, prefix: str = PREFIX, *, patience_s: float = PATIENCE_S) -> Store:
        """patience_s: how long a call waits for a server that is away. Raises StoreError for a malformed address."""
        return cls(Link.from_url(url, prefix, patience_s=patience_s))

    def close(self) -> None:
        self.link.close()

    # --- users

    def submit(
        self, experiment: Experiment, config_yaml: str, *, key: str = "", body_sha256: str = ""
    ) -> tuple[Experiment, bool]:
        """Queue it; True: it is new. key: of (user, key) only the first submit within 24 h makes an experiment, equal ones get that one.

        The store sets `config_sha256` (of the YAML's bytes), `queued_at`, and `submitted_at` where it is 0.
        Raises KeyReused for the key with another body, IdTaken.
        """
        if experiment.state is not State.QUEUED:
            raise ValueError(f"only a queued experiment can be submitted, not a {experiment.state} one")
        _named(experiment.id)
        experiment = dataclasses.replace(experiment, config_sha256=store_text.digest(config_yaml))
        store_text.proved(experiment)
        idempotency = store_text.digest(f"{experiment.user}\n{key}") if key else ""
        told = {"name": experiment.name, "user": experiment.user, "priority": experiment.priority}
        indexes = _indexes(experiment)
        status, payload = self.link.change(
            "submit",
            experiment.id,
            idempotency,
            body_sha256,
            KEY_KEPT_S,
            experiment.config_sha256,
            config_yaml,
            text(told | {"state": experiment.state, "parent": experiment.parent}),
            len(indexes),
            *indexes,
            *store_text.fields(experiment),
        )
        if status == "reused":
            raise KeyReused(
                f"the idempotency key {key!r} made {payload} from another request: use a new key for a new experiment"
            )
        if status == "taken":
            raise IdTaken(f"an experiment {experiment.id} exists already: submit it under another id")
        return store_text.EXPERIMENT.decode(payload), status == "new"

    def ask(self, id: str, wanted: Wanted, by: str) -> Experiment:
        """Cancel or pause; at once where nothing runs, else noted for its scheduler and its job. Asking twice changes nothing.

        `Wanted.NOTHING` takes back a pause that was not reached yet. Raises NotPossible, NoSuchExperiment.
        """
        status, payload = self.link.change(
            "ask", id, wanted, joined(ACTIVE), before(State.CANCELLED), text(by), text(f"cancelled by {by}")
        )
        if status == "missing":
            self._missing(id)
        experiment = store_text.EXPERIMENT.decode(payload)
        if status == "state":
            raise NotPossible(_why_not(experiment, wanted))
        return experiment

    def resume(
        self,
        id: str,
        by: str,
        *,
        overrides: Sequence[str] | None = None,
        config_yaml: str | None = None,
        demand: Demand | None = None,
        keeps_place: bool = False,
    ) -> Experiment:
        """Put a paused, failed or cancelled experiment back into the queue, with a fresh retry budget.

        overrides: appended to those it has; config_yaml, demand: replace what it has; keeps_place: in the queue, for a pause that was
        not its user's wish, else it is queued anew. Raises NotPossible, NoSuchExperiment.
        """
        status, payload = self.link.change(
            "resume",
            id,
            joined(RESUMABLE),
            text(by),
            text(tuple(overrides or ())),
            "" if demand is None else store_text.proved(demand),
            "" if config_yaml is None else store_text.digest(config_yaml),
            config_yaml or "",
            "keep" if keeps_place else "",
        )
        if status == "missing":
            self._missing(id)
        experiment = store_text.EXPERIMENT.decode(payload)
        if status == "state":
            raise NotPossible(_why_not_resumed(experiment))
        return experiment

    def set_quota(self, user: str, quota: Quota | None) -> None:
        """None: the settings' one holds again. Raises ValueError for a negative number."""
        self._quotas.set(user, quota)

    # --- schedulers

    @contextmanager
    def round(self, scheduler: str, ttl_s: float = 10) -> Iterator[bool]:
        """Hold the right to decide; False: another one decides now. A claim made inside is refused once the hold has run out."""
        token = f"{scheduler}:{secrets.token_hex(8)}"
        status, _ = self.link.change("round", "take", token, int(ttl_s * 1000))
        if status != "ok":
            yield False
            return
        self._round.token = token
        try:
            yield True
        finally:
            self._round.token = ""
            self.link.change("round", "give", token)

    def claim(self, id: str, scheduler: str, lease_s: float, *, job: str = "") -> Experiment | None:
        """Take a queued experiment: starting, with the next attempt and the next lease. None: someone was faster, it is not queued any
        more, its back-off is not over, this thread's round has run out, or `job` (ID-ATTEMPT, the default) names another attempt."""
        if job:
            _named(job)
        return self._maybe(
            "claim", id, before(State.STARTING), text(scheduler), lease_s, job, getattr(self._round, "token", "")
        )

    def adopt(self, id: str, scheduler: str, lease_s: float) -> Experiment | None:
        """Take over an active experiment whose lease has run out; same attempt, next lease. None: it has not, or someone was faster."""
        return self._maybe("adopt", id, joined(ACTIVE), text(scheduler), lease_s)

    def heartbeat(self, id: str, lease: int, lease_s: float) -> bool:
        """Hold on for another `lease_s` seconds. False: lost; leave the experiment alone."""
        return id not in self.heartbeats({id: lease}, lease_s)

    def heartbeats(self, leases: Mapping[str, int], lease_s: float) -> set[str]:
        """For many at once: lease by id. Returns the ids that are lost."""
        lost: set[str] = set()
        rows = list(leases.items())
        for first in range(0, len(rows), HEARTBEATS_AT_ONCE):
            flat = [part for row in rows[first : first + HEARTBEATS_AT_ONCE] for part in row]
            lost |= set(self.link.change("heartbeat", joined(ACTIVE), lease_s, *flat)[1].split())
        return lost

    def settle(
        self,
        id: str,
        lease: int,
        state: State,
        *,
        reason: str = "",
        cause: Cause = Cause.NONE,
        not_before: float = 0.0,
        retry_of: str = "",
    ) -> Experiment | None:
        """End the hold: the job vanished, was cancelled, or is tried again (queued where it was, counted under `retry_of`). None: stale
        lease, or it has ended already. A cancel (or, when queued again, a pause) that its user asked for meanwhile wins: look at the
        state returned. not_before: seconds since 1970 UTC. Raises ValueError for a state or a time that can't be."""
        if state in ACTIVE:
            raise ValueError(f"an experiment is not settled as {state}")
        if not math.isfinite(not_before):
            raise ValueError(f"{not_before} is no time")
        arguments = (
            "lease",
            lease,
            before(state, ACTIVE),
            state,
            text(reason),
            text(cause),
            text(not_before),
            retry_of,
        )
        return self._maybe("settle", id, *arguments, "")

    # --- the job

    def running(self, id: str, attempt: int) -> Wanted:
        """The job works. Raises Fenced."""
        status, payload = self.link.change(
            "running", id, attempt, before(State.RUNNING), joined(ACTIVE), text(f"attempt {attempt}")
        )
        self._fence(status, id, attempt)
        return Wanted(payload)

    def report(
        self,
        id: str,
        attempt: int,
        *,
        kind: str,
        data: dict[str, Any],
        progress: Progress | None = None,
        mlflow_run: str = "",
        mlflow_url: str = "",
    ) -> Wanted:
        """Tell an event, and how far it is. Returns what the user wants. Raises Fenced: this attempt is over."""
        changes = {"progress": progress, "mlflow_run": mlflow_run, "mlflow_url": mlflow_url}
        flat = [part for name, value in changes.items() if value for part in (name, store_text.proved(value))]
        status, payload = self.link.change(
            "report", id, attempt, joined(ACTIVE), kind, text(data), SAMPLES_KEPT, 0, *flat
        )
        self._fence(status, id, attempt)
        return Wanted(payload)

    def finish(self, id: str, attempt: int, state: State, *, reason: str = "", cause: Cause = Cause.NONE) -> Experiment:
        """The job's last word: paused, succeeded, failed or cancelled. A cancel asked for before a pause was reached wins.
        Raises Fenced: this attempt is over."""
        if state in ACTIVE or state is State.QUEUED:
            raise ValueError(f"a job does not finish as {state}")
        status, payload = self.link.change(
            "settle",
            id,
            "attempt",
            attempt,
            before(state, ACTIVE),
            state,
            text(reason),
            text(cause),
            0,
            "",
            text("job"),
        )
        self._fence("fenced" if status == "state" else status, id, attempt)
        return store_text.EXPERIMENT.decode(payload)

    def keep_samples(self, id: str, attempt: int, samples: Sequence[SampledTrajectory]) -> None:
        """Keep them beside earlier ones; the newest 48 stay. Raises Fenced."""
        last = [store_text.proved(sample) for sample in samples[-SAMPLES_KEPT:]]
        status, _ = self.link.change("report", id, attempt, joined(ACTIVE), "", "", SAMPLES_KEPT, len(last), *last)
        self._fence(status, id, attempt)

    # --- inside

    def _maybe(self, script: str, id: str, *arguments: str | float) -> Experiment | None:
        status, payload = self.link.change(script, id, *arguments)
        if status == "missing":
            self._missing(id)
        return store_text.EXPERIMENT.decode(payload) if status == "ok" else None

    def _fence(self, status: str, id: str, attempt: int) -> None:
        if status == "missing":
            self._missing(id)
        if status == "fenced":
            raise Fenced(
                f"attempt {attempt} of {id} is over: another attempt has begun, or the experiment ended; this process must stop"
            )


def _named(id: str) -> None:
    if not NAME.fullmatch(id):
        raise ValueError(f"{id!r} can't be an id: letters, digits, `.`, `_` and `-` only, at most 160")


def _indexes(experiment: Experiment) -> list[str]:
    names = [store_text.index("user", experiment.user)]
    names += [store_text.index("tag", *tag) for tag in experiment.tags.items()]
    return names + ([store_text.index("parent", experiment.parent)] if experiment.parent else [])


def _why_not(experiment: Experiment, wanted: Wanted) -> str:
    here = f"{experiment.id} is {experiment.state}"
    if experiment.wanted is Wanted.CANCEL:
        return f"{here} and is being cancelled, which can't be taken back: wait until it is, then resume it"
    if experiment.state in ENDED:
        return f"{here}: nothing runs any more" + (
            ", clone it for another run" if experiment.state is State.SUCCEEDED else ", resume it to let it go on"
        )
    if wanted is Wanted.PAUSE:
        return f"{here}: nothing runs that could pause; cancel it, and resume it later"
    return f"{here}: there is no request to take back"


def _why_not_resumed(experiment: Experiment) -> str:
    here = f"{experiment.id} is {experiment.state}"
    if experiment.state is State.SUCCEEDED:
        return f"{here}, there is nothing left to do: clone it for another run"
    if experiment.wanted is not Wanted.NOTHING:
        return f"{here} and its {experiment.wanted} is not done yet: wait until it is, then resume it"
    return f"{here} already: only what is paused, failed or cancelled can be resumed"

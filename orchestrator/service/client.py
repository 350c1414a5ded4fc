"""The service from Python: submit experiments, watch them, change them.

    from orchestrator import Client

    run = Client().submit("mgrd_tiny", {"actor.actor_optim.lr": 1e-6}, priority="high")
    for event in run.events():
        print(event.kind, event.data)

Neighbours: `calls` builds the requests, `transport` decides what is sent again, `async_client` is the same for asyncio. Invariants: what
comes back is typed; what goes wrong is a ServiceError with the server's message and hint; a submit that is sent twice submits once.
"""

from __future__ import annotations

import builtins
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import stamina

from orchestrator.service import calls, transport
from orchestrator.service.answers import Comparison, NewToken, PolicyUpdate, StoredConfig
from orchestrator.service.calls import Call
from orchestrator.service.client_errors import NotFound, ServiceError, StillRunning
from orchestrator.service.code_bundle import bundle_code, is_sha256
from orchestrator.service.discovery import find_service
from orchestrator.service.messages import AuditLine, Event, Experiment, Priority, SampledTrajectory, State, Token, User
from orchestrator.service.overrides import Overrides
from orchestrator.service.states import ENDED
from orchestrator.service.text_lines import LineReader, lines_of
from orchestrator.service.transport import Trail

T = TypeVar("T")
LAST = "@last"


class Client:
    """A connection to the service; may be shared by threads. url, token: default: see `discovery`.

    Raises NoServiceKnown when nothing says where the service is. Every method raises ServiceError.
    """

    def __init__(self, url: str = "", token: str = "") -> None:
        self.address = find_service(url, token)
        self._http = httpx.Client(**transport.connection(self.address))

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def submit(
        self,
        experiment: str = "",
        overrides: Overrides = (),
        *,
        priority: Priority | str = Priority.NORMAL,
        name: str = "",
        tags: Mapping[str, str] | None = None,
        code: Path | str = "",
        parent: str = "",
        key: str = "",
    ) -> Run:
        """Queue an experiment. overrides: mapping of keys to values, or texts `key=value`; code: folder that travels with it, or the
        SHA-256 of one that has; key: makes repeated submits one, as long as they are equal (default: a new one)."""
        sha256 = self._code(code)
        call = calls.submit(
            experiment, overrides, priority=priority, name=name, tags=tags or {}, code=sha256, parent=parent, key=key
        )
        return Run(self, self.ask(call))

    def upload(self, folder: Path) -> str:
        """Send user code unless the service has it; its SHA-256. Raises ConfigError for a folder that can't travel."""
        bundle = bundle_code(folder)
        if not self.ask(calls.code_known(bundle.sha256)):
            self.ask(calls.put_code(bundle.sha256, bundle.content))
        return bundle.sha256

    def sweep(
        self,
        experiment: str = "",
        overrides: Overrides = (),
        *,
        grid: Mapping[str, Sequence[Any]] | None = None,
        points: Sequence[Overrides] | None = None,
        name: str = "",
        priority: Priority | str = Priority.NORMAL,
        tags: Mapping[str, str] | None = None,
        code: Path | str = "",
        key: str = "",
    ) -> Sweep:
        """Queue one experiment a combination of `grid`'s values, or one a set of overrides in `points`. code, key: as of `submit`."""
        sha256 = self._code(code)
        call = calls.sweep(
            experiment,
            overrides,
            grid=grid,
            points=points,
            name=name,
            priority=priority,
            tags=tags or {},
            code=sha256,
            key=key,
        )
        made = self.ask(call)
        return Sweep(made.parent, tuple(Run(self, experiment) for experiment in made.experiments))

    def list(
        self,
        *,
        states: Iterable[State | str] = (),
        user: str = "",
        tag: tuple[str, str] | None = None,
        parent: str = "",
        limit: int = calls.PAGE,
        before: str = "",
    ) -> builtins.list[Run]:
        """Experiments, newest first. before: id from which to go on."""
        wanted = tuple(states)
        found: list[Run] = []
        while len(found) < limit:
            page = min(calls.LARGEST_PAGE, limit - len(found))
            call = calls.experiments(states=wanted, user=user, tag=tag, parent=parent, limit=page, before=before)
            got = [Run(self, experiment) for experiment in self.ask(call)]
            found += got
            if len(got) < page:
                break
            before = got[-1].id
        return found

    def get(self, identity: str) -> Run:
        """The experiment of exactly this id."""
        return Run(self, self.ask(calls.experiment(identity)))

    def find(self, reference: str) -> Run:
        """By id, by the beginning or end of an id that only one has, or `@last`, the newest of one's own."""
        if reference == LAST:
            mine = self.list(user=self.me().name, limit=1)
            if not mine:
                raise NotFound("you have submitted no experiment yet", status=404, hint="`mgrd submit --help`")
            return mine[0]
        try:
            return self.get(reference)
        except NotFound:
            listed = (run.experiment for run in self.list(limit=transport.SEARCHED))
            return Run(self, transport.one_of(reference, listed))

    def compare(self, a: str, b: str) -> Comparison:
        """What differs in configuration and metrics."""
        return self.ask(calls.compare(a, b))

    def events(self, *, after: str = "", follow: bool = True) -> Iterator[Event]:
        """What happens to all experiments, without end. after: id of an event to go on from; "" from now on, "0" all that is kept;
        follow=False: only what has happened."""
        trail = Trail(after)
        while True:
            try:
                for event in self._listen(calls.events(), trail, transport.IDLE_S if follow else transport.PAST_S):
                    if event is not None:
                        yield event
                if not follow:
                    return
                time.sleep(transport.FIRST_PAUSE_S)
            except ServiceError as error:
                time.sleep(trail.pause(error))

    def me(self) -> User:
        """Who the service takes this client for."""
        return self.ask(calls.me())

    def tokens(self) -> builtins.list[Token]:
        return self.ask(calls.tokens())

    def create_token(self, name: str, *, user: str = "", scope: str = "submit", expires_s: float = 0.0) -> NewToken:
        """A new token; its secret is told only now. user: default oneself; expires_s: seconds from now, 0 never."""
        return self.ask(calls.create_token(name, user or self.me().name, scope, expires_s))

    def revoke_token(self, identity: str) -> None:
        self.ask(calls.revoke_token(identity))

    def audit(self, limit: int = 100) -> builtins.list[AuditLine]:
        """Who did what, newest first."""
        return self.ask(calls.audit(limit))

    def cluster(self) -> dict[str, Any]:
        """Machines, what is free, what is asked for."""
        return self.ask(calls.cluster())

    def rewards(self) -> dict[str, Any]:
        """Installed and published rewards."""
        return self.ask(calls.rewards())

    def score(self, terms: Sequence[Any], samples: Sequence[Any]) -> dict[str, Any]:
        """Verdicts on samples, see docs/REWARDS.md."""
        return self.ask(calls.score(terms, samples))

    def ask(self, call: Call[T]) -> T:
        """Send one call, again where that is safe, and read its answer."""
        for attempt in stamina.retry_context(**transport.retrying(call)):
            with attempt:
                try:
                    response = self._http.request(**transport.request(call))
                except httpx.TransportError as error:
                    raise transport.unreachable(error, self.address) from error
                return call.read(response.status_code, response.headers, response.content)
        raise AssertionError("retry_context ends by a result or an error")

    def _stream(self, call: Call[str], headers: Mapping[str, str], idle_s: float) -> Iterator[bytes]:
        """First b"" once connected, then what arrives; ends when the server closes or is silent for `idle_s`."""
        arguments = transport.request(call)
        arguments["headers"] |= headers
        arguments["timeout"] = transport.patience(idle_s)
        try:
            with self._http.stream(**arguments) as response:
                if not response.is_success:
                    raise transport.refused(response.status_code, response.headers, response.read())
                yield b""
                yield from response.iter_bytes()
        except httpx.ReadTimeout:
            return
        except httpx.TransportError as error:
            raise transport.unreachable(error, self.address) from error

    def _code(self, code: Path | str) -> str:
        if isinstance(code, str) and (not code or is_sha256(code)):
            return code
        return self.upload(Path(code))

    def _listen(self, call: Call[str], trail: Trail, idle_s: float) -> Iterator[Event | None]:
        """Events over one connection; None for every other sign of life, the first once connected."""
        trail.connected()
        for chunk in self._stream(call, trail.headers, idle_s):
            yield from trail.heard(chunk) or (None,)


class Run:
    """One experiment of the service. `experiment` is what was last heard of it; `refresh` asks anew."""

    def __init__(self, client: Client, experiment: Experiment) -> None:
        self._client = client
        self.experiment = experiment

    def __repr__(self) -> str:
        return f"<Run {self.id} {self.state}>"

    @property
    def id(self) -> str:
        return self.experiment.id

    @property
    def state(self) -> State:
        return self.experiment.state

    def refresh(self) -> Self:
        return self._now(calls.experiment(self.id))

    def cancel(self) -> Self:
        """At once where nothing runs; else within some seconds, see `wait`."""
        return self._now(calls.cancel(self.id))

    def pause(self) -> Self:
        """At the next point from which it can go on."""
        return self._now(calls.pause(self.id))

    def resume(self, overrides: Overrides = ()) -> Self:
        """Queue it again, from its last checkpoint, with changed keys."""
        return self._now(calls.resume(self.id, overrides))

    def clone(self, overrides: Overrides = (), *, name: str = "", key: str = "") -> Run:
        """A new experiment of the same configuration, with changed keys."""
        return Run(self._client, self._client.ask(calls.clone(self.id, overrides, name=name, key=key)))

    def config(self) -> StoredConfig:
        return self._client.ask(calls.config(self.id))

    def updates(self) -> list[PolicyUpdate]:
        """Policy updates so far, in order."""
        return self._client.ask(calls.updates(self.id))

    def samples(self) -> list[SampledTrajectory]:
        """The last sampled responses."""
        return self._client.ask(calls.samples(self.id))

    def log_components(self) -> list[str]:
        """Names that `logs` takes: driver, rollout/0, …"""
        return self._client.ask(calls.log_components(self.id))

    def logs(self, component: str = "", *, tail: int | None = None, follow: bool = False) -> Iterator[str]:
        """The last lines of a component's log (default: 200 of the driver). follow: go on until the experiment has ended."""
        if not follow:
            yield from lines_of(self._client.ask(calls.logs(self.id, component, tail)))
            return
        lines, trail = LineReader(), Trail()
        while True:
            try:
                call = calls.logs(self.id, component, lines.tail(tail), follow=True)
                for chunk in self._client._stream(call, {}, transport.LOG_IDLE_S):
                    trail.losses = 0
                    yield from lines.feed(chunk)
                if transport.rests(self.refresh().state):
                    yield from lines.end()
                    return
                time.sleep(transport.FIRST_PAUSE_S)
            except ServiceError as error:
                time.sleep(trail.pause(error))
            lines.reconnected()

    def events(self, *, after: str = "0", follow: bool = True) -> Iterator[Event]:
        """What happens to it, from its beginning (or after an event's id) to its end; goes on through lost connections and pauses.
        follow=False: only what has happened so far."""
        trail = Trail(after)
        while True:
            try:
                settled = self.refresh().state in ENDED
                heard = False
                limit_s = transport.silence(settled, follow)
                for event in self._client._listen(calls.events(self.id), trail, limit_s):
                    if event is None:
                        continue
                    heard = True
                    yield event
                    if transport.tells_end(event) and transport.is_last(event, self.refresh().experiment):
                        return
                if not follow or (settled and not heard):
                    return
                time.sleep(transport.FIRST_PAUSE_S)
            except ServiceError as error:
                time.sleep(trail.pause(error))

    def wait(self, timeout_s: float | None = None) -> Self:
        """Until it has ended or is paused. Raises StillRunning after `timeout_s`."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        trail = Trail()
        while True:
            try:
                if transport.rests(self.refresh().state):
                    return self
                limit_s = transport.remaining(deadline, self.experiment)
                asked = False
                for event in self._client._listen(calls.events(self.id), trail, limit_s):
                    if not asked or (event is not None and event.kind == "state"):
                        asked = True
                        if transport.rests(self.refresh().state):
                            return self
                    transport.remaining(deadline, self.experiment)
                time.sleep(transport.FIRST_PAUSE_S)
            except StillRunning:
                raise
            except ServiceError as error:
                transport.remaining(deadline, self.experiment)
                time.sleep(trail.pause(error))

    def _now(self, call: Call[Experiment]) -> Self:
        self.experiment = self._client.ask(call)
        return self


@dataclass(frozen=True, slots=True)
class Sweep:
    """Experiments submitted together. parent: the id they share."""

    parent: str
    runs: tuple[Run, ...]

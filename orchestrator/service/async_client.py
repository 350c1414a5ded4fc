"""The service from asyncio: as `client`, with `await`.

    from orchestrator import AsyncClient

    async with AsyncClient() as client:
        run = await client.submit("mgrd_tiny", {"actor.actor_optim.lr": 1e-6})
        async for event in run.events():
            print(event.kind, event.data)

Neighbours: `calls` and `transport` hold what both clients share. Invariants: those of `client`; nothing here blocks the loop but the
zipping of user code, which has a thread.
"""

from __future__ import annotations

import asyncio
import builtins
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
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


class AsyncClient:
    """A connection to the service; may be shared by threads. url, token: default: see `discovery`.

    Raises NoServiceKnown when nothing says where the service is. Every method raises ServiceError.
    """

    def __init__(self, url: str = "", token: str = "") -> None:
        self.address = find_service(url, token)
        self._http = httpx.AsyncClient(**transport.connection(self.address))

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def submit(
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
    ) -> AsyncRun:
        """Queue an experiment. overrides: mapping of keys to values, or texts `key=value`; code: folder that travels with it, or the
        SHA-256 of one that has; key: makes repeated submits one, as long as they are equal (default: a new one)."""
        sha256 = await self._code(code)
        call = calls.submit(
            experiment, overrides, priority=priority, name=name, tags=tags or {}, code=sha256, parent=parent, key=key
        )
        return AsyncRun(self, await self.ask(call))

    async def upload(self, folder: Path) -> str:
        """Send user code unless the service has it; its SHA-256. Raises ConfigError for a folder that can't travel."""
        bundle = await asyncio.to_thread(bundle_code, folder)
        if not await self.ask(calls.code_known(bundle.sha256)):
            await self.ask(calls.put_code(bundle.sha256, bundle.content))
        return bundle.sha256

    async def sweep(
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
    ) -> AsyncSweep:
        """Queue one experiment a combination of `grid`'s values, or one a set of overrides in `points`. code, key: as of `submit`."""
        sha256 = await self._code(code)
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
        made = await self.ask(call)
        return AsyncSweep(made.parent, tuple(AsyncRun(self, experiment) for experiment in made.experiments))

    async def list(
        self,
        *,
        states: Iterable[State | str] = (),
        user: str = "",
        tag: tuple[str, str] | None = None,
        parent: str = "",
        limit: int = calls.PAGE,
        before: str = "",
    ) -> builtins.list[AsyncRun]:
        """Experiments, newest first. before: id from which to go on."""
        wanted = tuple(states)
        found: list[AsyncRun] = []
        while len(found) < limit:
            page = min(calls.LARGEST_PAGE, limit - len(found))
            call = calls.experiments(states=wanted, user=user, tag=tag, parent=parent, limit=page, before=before)
            got = [AsyncRun(self, experiment) for experiment in await self.ask(call)]
            found += got
            if len(got) < page:
                break
            before = got[-1].id
        return found

    async def get(self, identity: str) -> AsyncRun:
        """The experiment of exactly this id."""
        return AsyncRun(self, await self.ask(calls.experiment(identity)))

    async def find(self, reference: str) -> AsyncRun:
        """By id, by the beginning or end of an id that only one has, or `@last`, the newest of one's own."""
        if reference == LAST:
            mine = await self.list(user=(await self.me()).name, limit=1)
            if not mine:
                raise NotFound("you have submitted no experiment yet", status=404, hint="`mgrd submit --help`")
            return mine[0]
        try:
            return await self.get(reference)
        except NotFound:
            listed = [run.experiment for run in await self.list(limit=transport.SEARCHED)]
            return AsyncRun(self, transport.one_of(reference, listed))

    async def compare(self, a: str, b: str) -> Comparison:
        """What differs in configuration and metrics."""
        return await self.ask(calls.compare(a, b))

    async def events(self, *, after: str = "", follow: bool = True) -> AsyncIterator[Event]:
        """What happens to all experiments, without end. after: id of an event to go on from; "" from now on, "0" all that is kept;
        follow=False: only what has happened."""
        trail = Trail(after)
        while True:
            try:
                async with aclosing(
                    self._listen(calls.events(), trail, transport.IDLE_S if follow else transport.PAST_S)
                ) as heard:
                    async for event in heard:
                        if event is not None:
                            yield event
                if not follow:
                    return
                await asyncio.sleep(transport.FIRST_PAUSE_S)
            except ServiceError as error:
                await asyncio.sleep(trail.pause(error))

    async def me(self) -> User:
        """Who the service takes this client for."""
        return await self.ask(calls.me())

    async def tokens(self) -> builtins.list[Token]:
        return await self.ask(calls.tokens())

    async def create_token(
        self, name: str, *, user: str = "", scope: str = "submit", expires_s: float = 0.0
    ) -> NewToken:
        """A new token; its secret is told only now. user: default oneself; expires_s: seconds from now, 0 never."""
        return await self.ask(calls.create_token(name, user or (await self.me()).name, scope, expires_s))

    async def revoke_token(self, identity: str) -> None:
        await self.ask(calls.revoke_token(identity))

    async def audit(self, limit: int = 100) -> builtins.list[AuditLine]:
        """Who did what, newest first."""
        return await self.ask(calls.audit(limit))

    async def cluster(self) -> dict[str, Any]:
        """Machines, what is free, what is asked for."""
        return await self.ask(calls.cluster())

    async def rewards(self) -> dict[str, Any]:
        """Installed and published rewards."""
        return await self.ask(calls.rewards())

    async def score(self, terms: Sequence[Any], samples: Sequence[Any]) -> dict[str, Any]:
        """Verdicts on samples, see docs/REWARDS.md."""
        return await self.ask(calls.score(terms, samples))

    async def ask(self, call: Call[T]) -> T:
        """Send one call, again where that is safe, and read its answer."""
        async for attempt in stamina.retry_context(**transport.retrying(call)):
            with attempt:
                try:
                    response = await self._http.request(**transport.request(call))
                except httpx.TransportError as error:
                    raise transport.unreachable(error, self.address) from error
                return call.read(response.status_code, response.headers, response.content)
        raise AssertionError("retry_context ends by a result or an error")

    async def _stream(self, call: Call[str], headers: Mapping[str, str], idle_s: float) -> AsyncGenerator[bytes, None]:
        """First b"" once connected, then what arrives; ends when the server closes or is silent for `idle_s`."""
        arguments = transport.request(call)
        arguments["headers"] |= headers
        arguments["timeout"] = transport.patience(idle_s)
        try:
            async with self._http.stream(**arguments) as response:
                if not response.is_success:
                    raise transport.refused(response.status_code, response.headers, await response.aread())
                yield b""
                async for chunk in response.aiter_bytes():
                    yield chunk
        except httpx.ReadTimeout:
            return
        except httpx.TransportError as error:
            raise transport.unreachable(error, self.address) from error

    async def _code(self, code: Path | str) -> str:
        if isinstance(code, str) and (not code or is_sha256(code)):
            return code
        return await self.upload(Path(code))

    async def _listen(self, call: Call[str], trail: Trail, idle_s: float) -> AsyncGenerator[Event | None, None]:
        """Events over one connection; None for every other sign of life, the first once connected."""
        trail.connected()
        async with aclosing(self._stream(call, trail.headers, idle_s)) as chunks:
            async for chunk in chunks:
                for event in trail.heard(chunk) or (None,):
                    yield event


class AsyncRun:
    """One experiment of the service. `experiment` is what was last heard of it; `refresh` asks anew."""

    def __init__(self, client: AsyncClient, experiment: Experiment) -> None:
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

    async def refresh(self) -> Self:
        return await self._now(calls.experiment(self.id))

    async def cancel(self) -> Self:
        """At once where nothing runs; else within some seconds, see `wait`."""
        return await self._now(calls.cancel(self.id))

    async def pause(self) -> Self:
        """At the next point from which it can go on."""
        return await self._now(calls.pause(self.id))

    async def resume(self, overrides: Overrides = ()) -> Self:
        """Queue it again, from its last checkpoint, with changed keys."""
        return await self._now(calls.resume(self.id, overrides))

    async def clone(self, overrides: Overrides = (), *, name: str = "", key: str = "") -> AsyncRun:
        """A new experiment of the same configuration, with changed keys."""
        return AsyncRun(self._client, await self._client.ask(calls.clone(self.id, overrides, name=name, key=key)))

    async def config(self) -> StoredConfig:
        return await self._client.ask(calls.config(self.id))

    async def updates(self) -> list[PolicyUpdate]:
        """Policy updates so far, in order."""
        return await self._client.ask(calls.updates(self.id))

    async def samples(self) -> list[SampledTrajectory]:
        """The last sampled responses."""
        return await self._client.ask(calls.samples(self.id))

    async def log_components(self) -> list[str]:
        """Names that `logs` takes: driver, rollout/0, …"""
        return await self._client.ask(calls.log_components(self.id))

    async def logs(self, component: str = "", *, tail: int | None = None, follow: bool = False) -> AsyncIterator[str]:
        """The last lines of a component's log (default: 200 of the driver). follow: go on until the experiment has ended."""
        if not follow:
            for line in lines_of(await self._client.ask(calls.logs(self.id, component, tail))):
                yield line
            return
        lines, trail = LineReader(), Trail()
        while True:
            try:
                call = calls.logs(self.id, component, lines.tail(tail), follow=True)
                async with aclosing(self._client._stream(call, {}, transport.LOG_IDLE_S)) as chunks:
                    async for chunk in chunks:
                        trail.losses = 0
                        for line in lines.feed(chunk):
                            yield line
                if transport.rests((await self.refresh()).state):
                    for line in lines.end():
                        yield line
                    return
                await asyncio.sleep(transport.FIRST_PAUSE_S)
            except ServiceError as error:
                await asyncio.sleep(trail.pause(error))
            lines.reconnected()

    async def events(self, *, after: str = "0", follow: bool = True) -> AsyncIterator[Event]:
        """What happens to it, from its beginning (or after an event's id) to its end; goes on through lost connections and pauses.
        follow=False: only what has happened so far."""
        trail = Trail(after)
        while True:
            try:
                settled = (await self.refresh()).state in ENDED
                heard = False
                limit_s = transport.silence(settled, follow)
                async with aclosing(self._client._listen(calls.events(self.id), trail, limit_s)) as arriving:
                    async for event in arriving:
                        if event is None:
                            continue
                        heard = True
                        yield event
                        if transport.tells_end(event) and transport.is_last(event, (await self.refresh()).experiment):
                            return
                if not follow or (settled and not heard):
                    return
                await asyncio.sleep(transport.FIRST_PAUSE_S)
            except ServiceError as error:
                await asyncio.sleep(trail.pause(error))

    async def wait(self, timeout_s: float | None = None) -> Self:
        """Until it has ended or is paused. Raises StillRunning after `timeout_s`."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        trail = Trail()
        while True:
            try:
                if transport.rests((await self.refresh()).state):
                    return self
                limit_s = transport.remaining(deadline, self.experiment)
                asked = False
                async with aclosing(self._client._listen(calls.events(self.id), trail, limit_s)) as arriving:
                    async for event in arriving:
                        if not asked or (event is not None and event.kind == "state"):
                            asked = True
                            if transport.rests((await self.refresh()).state):
                                return self
                        transport.remaining(deadline, self.experiment)
                await asyncio.sleep(transport.FIRST_PAUSE_S)
            except StillRunning:
                raise
            except ServiceError as error:
                transport.remaining(deadline, self.experiment)
                await asyncio.sleep(trail.pause(error))

    async def _now(self, call: Call[Experiment]) -> Self:
        self.experiment = await self._client.ask(call)
        return self


@dataclass(frozen=True, slots=True)
class AsyncSweep:
    """Experiments submitted together. parent: the id they share."""

    parent: str
    runs: tuple[AsyncRun, ...]

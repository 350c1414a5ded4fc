"""How calls travel over HTTP: headers, limits of time, what may be sent again, what went wrong in words (no waiting here).

Neighbours: `client` and `async_client` share it; `calls` says what is repeatable. Invariants: a request that may have been done and
must not be done twice is never sent again; this machine's own service is never asked through a proxy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec

from orchestrator.service import trust
from orchestrator.service.answers import failure
from orchestrator.service.calls import Call
from orchestrator.service.client_errors import (
    AmbiguousReference,
    NotFound,
    NotReady,
    ServiceError,
    ServiceUnreachable,
    StillRunning,
    TooManyRequests,
    UnreadableAnswer,
)
from orchestrator.service.discovery import AUTHORITIES, Address
from orchestrator.service.messages import Event, Experiment, State
from orchestrator.service.settings import LOOPBACK
from orchestrator.service.sse import Frame, FrameReader
from orchestrator.service.states import ENDED

LIMITS = httpx.Timeout(60.0, connect=5.0)  # a submit composes a configuration: seconds on a busy machine
ATTEMPTS = 5  # over about 6 s: longer than the API takes to come back after it died
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 3.0
LONGEST_RETRY_AFTER_S = 60.0  # a server that asks for more patience than this gets an error raised instead
IDLE_S = 45.0  # three times the pause between the server's signs of life; then the connection counts as lost
DRAIN_S = 5.0  # silence after which an experiment that has ended has no more events
DROPPED = (
    "dropped"  # the server's word for a watcher that did not keep up: it ends the stream, and the watcher comes back
)
PAST_S = 1.0  # silence after which what has happened so far has arrived
LOG_IDLE_S = 60.0  # a log that is silent for so long is asked for again: is the service still there?
SEARCHED = 1000  # newest experiments among which part of an id is looked for
PATIENCE_S = 300.0  # a stream is given up after so long without a server


def connection(address: Address) -> dict[str, Any]:
    """Arguments of an `httpx.Client`, or its asynchronous twin. Raises MgrdError for certificates that can't be read."""
    headers = {"Authorization": f"Bearer {address.token}"} if address.token else {}
    host = urlsplit(address.url).hostname or ""
    direct = {f"all://{host}": None} if host in LOOPBACK else {}
    found: dict[str, Any] = {"base_url": address.url, "headers": headers, "timeout": LIMITS, "mounts": direct}
    if address.url.startswith("https:"):
        if address.certificate:
            found["verify"] = trust.only(address.certificate)
        elif address.authorities:
            found["verify"] = trust.also(address.authorities)
    return found


def request(call: Call[Any]) -> dict[str, Any]:
    """Arguments of `httpx.Client.request`."""
    content, headers = call.encoded()
    return {
        "method": call.method,
        "url": call.path,
        "params": list(call.params),
        "content": content,
        "headers": headers,
    }


def unreachable(error: httpx.TransportError, address: Address) -> ServiceUnreachable:
    """The error of a request without an answer."""
    sent = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    what = str(error) or type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in what:
        return ServiceUnreachable(
            f"the service at {address.url} (named by {address.told_by}) shows a certificate that is not trusted: {what}",
            sent=False,
            hint=f"set {AUTHORITIES} to a PEM file of who has signed it, or of itself; the address must be one that it names",
        )
    return ServiceUnreachable(
        f"the service at {address.url} (named by {address.told_by}) does not answer: {what}",
        sent=sent,
        hint="`mgrd doctor` looks for the cause, `mgrd up` starts a service",
    )


def again(call: Call[Any]) -> Callable[[Exception], bool | timedelta]:
    """For `stamina`: whether to send this call once more after an error, and when."""

    def decide(error: Exception) -> bool | timedelta:
        if isinstance(error, ServiceUnreachable):
            return call.repeatable or not error.sent
        if isinstance(error, TooManyRequests) or (isinstance(error, NotReady) and call.repeatable):
            if error.retry_after_s is None:
                return True
            return error.retry_after_s <= LONGEST_RETRY_AFTER_S and timedelta(seconds=error.retry_after_s)
        return False

    return decide


def retrying(call: Call[Any]) -> dict[str, Any]:
    """Arguments of `stamina.retry_context`."""
    return {
        "on": again(call),
        "attempts": ATTEMPTS,
        "timeout": None,
        "wait_initial": FIRST_PAUSE_S,
        "wait_max": LONGEST_PAUSE_S,
        "wait_jitter": FIRST_PAUSE_S,
    }


def patience(idle_s: float) -> httpx.Timeout:
    """Limits of a stream that may be silent for `idle_s`."""
    return httpx.Timeout(LIMITS.read, connect=LIMITS.connect, read=idle_s)


def silence(settled: bool, follow: bool) -> float:
    """How long the stream of one experiment may be silent. settled: it has ended, so no more is expected than what is kept."""
    return PAST_S if not follow else DRAIN_S if settled else IDLE_S


def refused(status: int, headers: Mapping[str, str], body: bytes) -> ServiceError:
    """The error of a stream that was not opened."""
    return failure(status, headers, body)


def as_event(frame: Frame) -> Event:
    """Raises UnreadableAnswer for a frame that holds none."""
    try:
        return msgspec.json.decode(frame.data, type=Event)
    except msgspec.MsgspecError as error:
        raise UnreadableAnswer(
            f"event {frame.id or '?'} can't be read: {error}", hint="do the versions differ?"
        ) from error


@dataclass(slots=True)
class Trail:
    """Where a watcher is in a stream of events, and how patient it is. after: id of the last event seen; "0" for all, "" from now on."""

    after: str = ""
    losses: int = 0
    lost_at: float = 0.0
    reader: FrameReader = field(init=False)

    def __post_init__(self) -> None:
        self.reader = FrameReader(self.after)

    @property
    def headers(self) -> dict[str, str]:
        return {"Last-Event-ID": self.reader.last_id} if self.reader.last_id else {}

    def connected(self) -> None:
        self.reader.reconnected()

    def heard(self, chunk: bytes) -> Sequence[Event]:
        """The events that this chunk completes."""
        self.losses = 0
        return [as_event(frame) for frame in self.reader.feed(chunk) if frame.kind != DROPPED]

    def pause(self, error: ServiceError) -> float:
        """Seconds to wait before connecting again. Raises the error itself when waiting is no use, or has been for long."""
        passing = isinstance(error, ServiceUnreachable | NotReady | TooManyRequests)
        now = time.monotonic()
        if not self.losses:
            self.lost_at = now
        if not passing or now - self.lost_at >= PATIENCE_S:
            raise error
        asked = error.retry_after_s if error.retry_after_s is not None else self.reader.retry_s
        pause = max(asked or 0.0, min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**self.losses))
        self.losses += 1
        return min(pause, LONGEST_RETRY_AFTER_S)


def tells_end(event: Event) -> bool:
    """A change to a state in which an experiment has ended (it may have been resumed since)."""
    return event.kind == "state" and str(event.data.get("state", "")) in ENDED


def is_last(event: Event, now: Experiment) -> bool:
    """Whether this event told the end that the experiment is at now."""
    return now.state in ENDED and str(event.data.get("state", "")) == now.state and event.at >= now.ended_at - 0.001


def rests(state: State) -> bool:
    """Nothing happens to it until somebody asks."""
    return state in ENDED or state is State.PAUSED


def remaining(deadline: float | None, now: Experiment) -> float:
    """Seconds that a connection may be silent. Raises StillRunning past the deadline (of `time.monotonic`)."""
    left = IDLE_S if deadline is None else deadline - time.monotonic()
    if left <= 0:
        raise StillRunning(f"{now.id} is still {now.state} after the time to wait", hint="it goes on; wait again")
    return min(IDLE_S, left)


def one_of(reference: str, candidates: Iterable[Experiment]) -> Experiment:
    """The experiment whose id begins with `reference`, or ends with it. Raises NotFound, AmbiguousReference with the ids that fit."""
    listed = list(candidates)
    fitting = [e for e in listed if e.id.startswith(reference)] or [e for e in listed if e.id.endswith(reference)]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise NotFound(f"there is no experiment {reference!r}", status=404, hint="`mgrd ps --all` lists them")
    shown = ", ".join(e.id for e in fitting[:5]) + (", …" if len(fitting) > 5 else "")
    raise AmbiguousReference(f"{reference!r} fits {len(fitting)} experiments: {shown}", hint="write more of the id")

"""What the store holds, as anybody may read it: single experiments, pages, the queue, samples, events.

Neighbours: `store.Store` adds everything that changes something. Invariant: nothing here writes; a page looks at few experiments however
many there are, and no call keeps the server busy for long.
"""

from __future__ import annotations

import builtins
import difflib
from collections.abc import Sequence
from typing import Any, NoReturn

from orchestrator.service import store_text
from orchestrator.service.messages import Event, Experiment, PastRun, Quota, SampledTrajectory, State
from orchestrator.service.states import ACTIVE
from orchestrator.service.store_errors import NoSuchExperiment
from orchestrator.service.store_events import EventLog
from orchestrator.service.store_link import Link, joined
from orchestrator.service.store_mirror import Mirror
from orchestrator.service.store_quotas import Quotas

PAGE_LOOK = 2000  # experiments that one call of the paging script looks at: a few milliseconds of the server
NEAR_AMONG = 2000  # newest ids that a mistyped one is compared with


class StoreReader:
    """The reading half of `Store`."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self._events = EventLog(link)
        self._quotas = Quotas(link)
        self._mirror = Mirror(link)

    def get(self, id: str) -> Experiment:
        """Raises NoSuchExperiment, with near names."""
        held = self.link.call(lambda client: client.hget(self.link.key("texts"), id))
        return store_text.EXPERIMENT.decode(held) if held else self._missing(id)

    def list(
        self,
        *,
        states: Sequence[State] = (),
        user: str = "",
        tag: tuple[str, str] | None = None,
        parent: str = "",
        limit: int = 100,
        before: str = "",
    ) -> builtins.list[Experiment]:
        """Newest first; before: id of the last experiment of the page before. Raises NoSuchExperiment for an unknown `before`."""
        must = [store_text.index("user", user)] if user else []
        must += [store_text.index("tag", *tag)] if tag else []
        must += [store_text.index("parent", parent)] if parent else []
        cursor = self._cursor(before)
        found: builtins.list[Experiment] = []
        while cursor and len(found) < limit:
            cursor, *texts = self.link.read("page", limit - len(found), cursor, PAGE_LOOK, joined(states), *must)
            found += [store_text.EXPERIMENT.decode(one) for one in texts]
        return found

    def config(self, sha256: str) -> str:
        """The resolved configuration, YAML. Raises NoSuchExperiment when none is kept under that digest."""
        held = self.link.call(lambda client: client.get(self.link.key("config", sha256)))
        if held is None:
            raise NoSuchExperiment(f"no configuration is kept under {sha256}: take `config_sha256` of an experiment")
        return str(held)

    def queued(self) -> builtins.list[Experiment]:
        """In the order in which they were queued. The first call of a process reads all, later ones what has changed."""
        return self._mirror.fetch((State.QUEUED,))

    def active(self) -> builtins.list[Experiment]:
        """Starting and running ones."""
        return self._mirror.fetch(ACTIVE)

    def past_runs(self, since: float) -> builtins.list[PastRun]:
        """Of experiments that ended after `since` (seconds since 1970 UTC), a day back at most; the 5000 that ended last."""
        held = self.link.call(lambda client: client.zrangebyscore(self.link.key("past"), since, "+inf"))
        return [store_text.PAST_RUN.decode(one) for one in held]

    def counts(self) -> dict[State, int]:
        def count(client: Any) -> builtins.list[int]:
            pipeline = client.pipeline(transaction=True)
            for state in State:
                pipeline.zcard(self.link.key("state", state))
            return pipeline.execute()  # type: ignore[no-any-return]

        return dict(zip(State, self.link.call(count), strict=True))

    def samples(self, id: str) -> builtins.list[SampledTrajectory]:
        """Newest first."""
        held = self.link.call(lambda client: client.lrange(self.link.key("samples", id), 0, -1))
        return [store_text.SAMPLE.decode(one) for one in reversed(held)]

    def events(self, after: str = "0", *, id: str = "", limit: int = 1000, wait_s: float = 0) -> builtins.list[Event]:
        """Of one experiment or of all, oldest first, after the event `after`; waits up to `wait_s` seconds for the first one."""
        return self._events.read(after, id, limit, wait_s)

    def latest_event(self, id: str = "") -> str:
        """Id of the newest event: `after` for what happens from now on."""
        return self._events.latest(id)

    def news(self, timeout_s: float) -> bool:
        """For schedulers: whether something was submitted, asked or ended since the last call; waits up to `timeout_s` seconds."""
        return self._events.news(timeout_s)

    def quotas(self) -> dict[str, Quota]:
        """Of the users who have one of their own."""
        return self._quotas.all()

    def _cursor(self, before: str) -> str:
        if not before:
            return "+inf"
        seq = self.link.call(lambda client: client.zscore(self.link.key("all"), before))
        return f"({int(seq)}" if seq is not None else self._missing(before)

    def _missing(self, id: str) -> NoReturn:
        ids = self.link.call(lambda client: client.zrevrange(self.link.key("all"), 0, NEAR_AMONG - 1))
        near = difflib.get_close_matches(id, ids, n=3)
        raise NoSuchExperiment(
            f"there is no experiment {id!r}; " + (f"near ones: {', '.join(near)}" if near else "`mgrd ps` lists them")
        )

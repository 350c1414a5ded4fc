"""What the reward service does for a request, without HTTP: checks it, pins its terms, scores.

Neighbours: `http` hangs this behind routes, `http_pool` scores. Invariants: a request that can't be served is `Refused` with the
field; a score that can't be computed is an invalid verdict; a clip is opened only below the folder that was allowed.
"""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewards.clips import recordings
from rewards.composition import check_spec
from rewards.errors import RewardError
from rewards.http_messages import (
    InstalledReward,
    PublishedReward,
    RewardList,
    ScoreRequest,
    ScoreResponse,
    VerdictOut,
)
from rewards.http_metrics import Metrics
from rewards.http_pool import Busy, CanNotStart, ScoringPool, TooSlow
from rewards.messages import JointTerm, RewardSpec, RewardTerm, Sample
from rewards.published import Published, PublishedStore
from rewards.registry import ResolvedTerm, RewardFunction, registered, resolve
from rewards.sample_input import NO_FOLDER, BadSample, parse_sample
from rewards.scorer import ResolvedReward, resolve_reward

OpenStore = Callable[[], AbstractContextManager[PublishedStore]]
KEPT_S = 30.0  # a version that was looked up is used again so long: a retirement is noticed that late
WARM_REWARD, WARM_LIMIT_S = "think_present", 60.0


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """timeout_s, memory_mb: of one sample, of a scoring process; request_s: of a whole request; clips: folder below which
    recordings may be named (None: nowhere); token_secret: name of the secret that callers send as bearer token ("" none)."""

    timeout_s: float = 10.0
    memory_mb: int = 2048
    request_s: float = 120.0
    max_samples: int = 4096
    max_body_mb: int = 32
    clips: Path | None = None
    token_secret: str = ""


class Refused(Exception):
    """A request that is answered with a status, a field and a message."""

    def __init__(self, status: int, field: str, message: str) -> None:
        super().__init__(message)
        self.status, self.field = status, field


class RewardApi:
    """What the routes do, without HTTP. Used by several threads."""

    def __init__(self, pool: ScoringPool, open_store: OpenStore | None, settings: HttpSettings) -> None:
        self.pool, self.open_store, self.settings = pool, open_store, settings
        self.metrics = Metrics()
        self.problem = "starting"
        self._resolved: dict[str, tuple[float, ResolvedTerm]] = {}

    def warm_up(self) -> None:
        """Starts one scoring process, so that the first request finds it proven."""
        try:
            reward = resolve_reward(self._spec((RewardTerm(WARM_REWARD, 1.0, "any"),), (), self.settings.timeout_s))
            sample = parse_sample({"question": {"prompt": ""}, "response": ""}, NO_FOLDER, "warm-up")
            self.pool.score(reward, [sample], WARM_LIMIT_S)
        except (RewardError, Busy, TooSlow) as error:
            self.problem = str(error)
        else:
            self.problem = ""

    def score(self, request: ScoreRequest) -> ScoreResponse:
        """Raises Refused."""
        if len(request.samples) > self.settings.max_samples:
            raise Refused(413, "samples", f"{len(request.samples)} samples, the limit is {self.settings.max_samples}")
        samples = [self._sample(data, index) for index, data in enumerate(request.samples)]
        reward = self._reward(request)
        began = time.monotonic()
        try:
            verdicts = self.pool.score(reward, samples, self.settings.request_s)
        except Busy as error:
            raise Refused(503, "", str(error)) from error
        except TooSlow as error:
            raise Refused(504, "samples", str(error)) from error
        except CanNotStart as error:
            raise Refused(422, "terms", str(error)) from error
        except RewardError as error:
            raise Refused(503, "", str(error)) from error
        seconds = time.monotonic() - began
        self.metrics.scored(verdicts, seconds)
        out = [VerdictOut.of(s.trajectory_id, v) for s, v in zip(samples, verdicts, strict=True)]
        return ScoreResponse(verdicts=out, versions=reward.versions, seconds=seconds)

    def rewards(self) -> RewardList:
        """Raises Refused when the registry does not answer."""
        return RewardList(installed=[_installed(f) for f in registered()], published=self._published())

    def named(self, name: str) -> RewardList:
        """Raises Refused for a name that is neither installed nor published."""
        found = self.rewards()
        installed = [reward for reward in found.installed if reward.name == name]
        published = [reward for reward in found.published if reward.name == name]
        if not installed and not published:
            raise Refused(404, "name", f"no reward {name!r} is installed or published; see /v1/rewards")
        return RewardList(installed=installed, published=published)

    def _published(self) -> list[PublishedReward]:
        if self.open_store is None:
            return []
        try:
            with self.open_store() as store:
                return [_line(line) for line in store.list(retired=True)]
        except RewardError as error:
            raise Refused(503, "", str(error)) from error

    def _sample(self, data: Any, index: int) -> Sample:
        field = f"samples[{index}]"
        try:
            sample = parse_sample(data, self.settings.clips or NO_FOLDER, field)
        except BadSample as error:
            raise Refused(422, f"{field}.{error.field}" if error.field else field, error.message) from error
        for place, clip in recordings(sample.question):
            if not isinstance(clip, Mapping):
                raise Refused(422, f"{field}.question.{place}", "an object with a path expected")
            self._check_clip(str(clip.get("path", "")), f"{field}.question.{place}.path")
        return sample

    def _check_clip(self, path: str, field: str) -> None:
        folder = self.settings.clips
        if folder is None:
            raise Refused(422, field, "this server takes no recordings; start it with --clips FOLDER")
        if not Path(path).resolve().is_relative_to(folder.resolve()):
            raise Refused(422, field, "the recording is outside the folder that this server may read")

    def _reward(self, request: ScoreRequest) -> ResolvedReward:
        limit = min(request.timeout_s or self.settings.timeout_s, self.settings.timeout_s)
        terms = tuple(term.to_term() for term in request.terms)
        spec = self._spec(terms, tuple(joint.to_term() for joint in request.joint), limit)
        try:
            check_spec(spec)
        except RewardError as error:
            raise Refused(422, "terms", str(error)) from error
        pinned = tuple(self._term(term, f"terms[{index}]") for index, term in enumerate(terms))
        return ResolvedReward(spec, pinned, tuple(path for path in sys.path if path))

    def _term(self, term: RewardTerm, field: str) -> ResolvedTerm:
        key = repr(term)
        at, found = self._resolved.get(key, (0.0, None))
        if found is not None and term.version and time.monotonic() - at < KEPT_S:
            return found
        try:
            if not term.version or self.open_store is None:
                return resolve(term)
            with self.open_store() as store:
                found = resolve(term, store)
        except RewardError as error:
            raise Refused(422, field, str(error)) from error
        self._resolved = {k: v for k, v in self._resolved.items() if time.monotonic() - v[0] < KEPT_S}
        self._resolved[key] = (time.monotonic(), found)
        return found

    def _spec(self, terms: tuple[RewardTerm, ...], joint: tuple[JointTerm, ...], timeout_s: float) -> RewardSpec:
        return RewardSpec(terms, timeout_s, self.settings.memory_mb, self.pool.workers, joint)


def _installed(function: RewardFunction) -> InstalledReward:
    parameters = {
        name: None if parameter.default is inspect.Parameter.empty else parameter.default
        for name, parameter in list(inspect.signature(function.call).parameters.items())[1:]
    }
    try:
        version = function.version(function.bind({}))
    except RewardError:  # one of its parameters must be given, and decides the version
        version = ""
    return InstalledReward(
        name=function.name,
        doc=inspect.getdoc(function.call) or "",
        parameters=parameters,
        version=version,
        network=function.network,
        deterministic=function.deterministic,
        secrets=list(function.secrets),
    )


def _line(line: Published) -> PublishedReward:
    return PublishedReward(
        name=line.name,
        hash=line.hash,
        kind=line.kind,
        tags=list(line.tags),
        at=line.at,
        note=line.note,
        retired=bool(line.retired_at),
    )

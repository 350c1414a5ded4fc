"""Reward `remote`: a scoring service of your own, by URL.

    reward.terms.remote.parameters = {url: "https://rewards.example.com/pitch", secret: "PITCH_TOKEN"}

Neighbours: `remoting` does it; `mgrd rewards register URL` publishes one under a name of its own. Invariants: light to import; the
version covers URL, options and the service's own version string where one is required; nondeterministic, since nobody here can know
what runs behind a URL.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rewards.endpoints.base import Endpoint
from rewards.endpoints.settings import EndpointSettings, parameters_of
from rewards.registry import reward


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteSettings(EndpointSettings):
    """The parameters of `remote` beside those of every endpoint.

    batch: samples in a request at most; request_mb, answer_mb: size of one (MB); options: passed on as they are; service: what the
    answers must name as their service, such as "pitch-judge 1.4" ("" anything).
    """

    concurrency: int = 4
    timeout_s: float = 30.0
    limit_s: float = 120.0
    batch: int = 32
    request_mb: float = 8.0
    answer_mb: float = 8.0
    options: Any = None
    service: str = ""

    def check(self) -> None:
        EndpointSettings.check(self)
        self.check_range("batch", least=1)
        self.check_range("request_mb", "answer_mb", least=0.001)
        if not isinstance(self.options or {}, Mapping):
            raise ValueError(f"options is a mapping, not {type(self.options).__name__}")


def check_remote(**parameters: Any) -> None:
    """Raises ValueError for parameters that can't work."""
    RemoteSettings(**parameters).check()


@reward("remote", endpoint=True, network=True, deterministic=False, check=check_remote)
@parameters_of(RemoteSettings)
def remote(secrets: Mapping[str, str], /, **parameters: Any) -> Endpoint:
    """The service, on the event loop that is running; parameters: `RemoteSettings`."""
    from rewards.endpoints.remoting import Remote

    settings = RemoteSettings(**parameters)
    return Remote(settings, token=secrets[settings.secret] if settings.secret else "")

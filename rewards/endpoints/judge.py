"""Reward `judge`: a language model behind an OpenAI-compatible endpoint says on which level the reply stands.

    reward.terms.judge.parameters = {url: "https://api.example.com/v1", model: "judge-8b", secret: "JUDGE_KEY"}

score = R(history, reply, reference; rubric or none): the scalar of the level that is named. Neighbours: `judging` does it; a rollout
engine started with `vllm serve` will do as the endpoint. Invariants: light to import; the version covers model, prompt and levels,
since they are parameters (shipped prompts by their digest); nondeterministic, so its verdicts are cached only where asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rewards.endpoints.base import Endpoint
from rewards.endpoints.prompts import SHIPPED, compiled, is_inline
from rewards.endpoints.scale import FORMS, Level, make_levels
from rewards.endpoints.settings import EndpointSettings, check_choice, check_rate, parameters_of
from rewards.errors import RewardError
from rewards.registry import reward

CHAT_PATH = "/chat/completions"
VOTES = ("median", "mean")
OURS = frozenset({"messages", "model", "n", "stream"})  # fields of a request that `extra` must leave alone


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeSettings(EndpointSettings):
    """The parameters of `judge` beside those of every endpoint.

    url: base of the API (`…/v1`); model: as the endpoint calls it; prompt: a shipped one, or a jinja text; levels, meanings: see
    `scale.make_levels`; answer: form the judge answers in; with_reasoning: whether it sees the reasoning, too; temperature: None
    leaves it out; max_tokens: of an answer (0 leaves it out); extra: more fields of the request; votes: answers a verdict, vote: how
    they are joined; retries: how often it is asked again after an answer that can't be read; tokens_per_minute: read and written
    (0: no limit); price_in, price_out: of a million tokens; budget: money after which every verdict is invalid (0: none).
    """

    model: str
    prompt: str = "default"
    levels: Any = None
    meanings: Any = None
    answer: str = "line"
    with_reasoning: bool = False
    temperature: float | None = 0.0
    max_tokens: int = 512
    extra: Any = None
    votes: int = 1
    vote: str = "median"
    retries: int = 1
    tokens_per_minute: float = 0.0
    price_in: float = 0.0
    price_out: float = 0.0
    budget: float = 0.0

    @property
    def chat_url(self) -> str:
        url = self.url.rstrip("/")
        return url if url.endswith(CHAT_PATH) else url + CHAT_PATH

    @property
    def scale(self) -> tuple[Level, ...]:
        return make_levels(self.levels, self.meanings)

    def money(self, tokens_in: int, tokens_out: int) -> float:
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6

    def check(self) -> None:
        EndpointSettings.check(self)
        self.check_range("votes", least=1)
        self.check_range("retries", "max_tokens", "price_in", "price_out", "budget", least=0)
        check_rate("tokens_per_minute", self.tokens_per_minute)
        check_choice("answer", self.answer, FORMS)
        check_choice("vote", self.vote, VOTES)
        make_levels(self.levels, self.meanings)
        if not self.model:
            raise ValueError("model is empty; give the name the endpoint knows its model by")
        if not is_inline(self.prompt):
            check_choice("prompt (if not a jinja text with {{ reply }})", self.prompt, SHIPPED)
        else:
            try:
                compiled(self.prompt)
            except RewardError as error:
                raise ValueError(str(error)) from error
        if self.temperature is not None:
            self.check_range("temperature", least=0)
        if self.votes > 1 and self.temperature == 0:
            raise ValueError(f"{self.votes} votes at temperature 0 are one vote; raise the temperature")
        if not isinstance(self.extra or {}, Mapping) or OURS & (self.extra or {}).keys():
            raise ValueError(f"extra is a mapping of request fields, none of {', '.join(sorted(OURS))}")
        if self.budget and not (self.price_in or self.price_out):
            raise ValueError("a budget needs prices; set price_in and price_out (for a million tokens)")


def check_judge(**parameters: Any) -> None:
    """Raises ValueError for parameters that can't work."""
    JudgeSettings(**parameters).check()


@reward("judge", endpoint=True, network=True, deterministic=False, check=check_judge)
@parameters_of(JudgeSettings)
def judge(secrets: Mapping[str, str], /, **parameters: Any) -> Endpoint:
    """The judge, on the event loop that is running; parameters: `JudgeSettings`. Raises RewardError for a prompt it can't use."""
    from rewards.endpoints.judging import Judge

    settings = JudgeSettings(**parameters)
    return Judge(settings, token=secrets[settings.secret] if settings.secret else "")

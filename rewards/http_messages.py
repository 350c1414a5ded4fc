"""What goes over HTTP: requests checked field by field, answers as the page at /docs shows them.

Neighbours: `http` serves them. Invariant: an unknown field is refused, so that a misspelt one is never ignored.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from rewards.messages import JointTerm, RewardTerm, Verdict

EXAMPLE_SAMPLE: dict[str, Any] = {
    "question": {
        "prompt": "What is heard?",
        "answer": "violin",
        "answer_kind": "choice",
        "choices": ["dog", "violin"],
    },
    "response": "<think>\nI hear bowed strings.\n</think>\nB",
}
EXAMPLE_REQUEST: dict[str, Any] = {
    "terms": [{"name": "answer", "weight": 0.8}, {"name": "think_present", "weight": 0.2}],
    "samples": [EXAMPLE_SAMPLE],
}
EXAMPLE_PUBLISHED: dict[str, Any] = {"terms": ["pitch_named@stable"], "samples": [EXAMPLE_SAMPLE]}


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Term(Strict):
    """One function in the composed reward. As text: `answer`, `pitch_named@stable`, `pitch_named@sha256:…`."""

    name: str = Field(min_length=1, description="Name of an installed or published reward.")
    weight: float = Field(1.0, allow_inf_nan=False)
    modality: Literal["any", "audio", "text"] = "any"
    parameters: dict[str, Any] = Field(default_factory=dict)
    dataset: str = ""
    version: str = Field("", description="sha256:… (12 digits or more) or a tag; empty: what is installed.")

    def to_term(self) -> RewardTerm:
        return RewardTerm(self.name, self.weight, self.modality, self.parameters, self.dataset, self.version)


class Joint(Strict):
    """A term made of other terms' components."""

    name: str = Field(min_length=1)
    of: list[str] = Field(min_length=2)
    how: Literal["product", "least", "mean"]
    weight: float = Field(1.0, allow_inf_nan=False)
    modality: Literal["any", "audio", "text"] = "any"

    def to_term(self) -> JointTerm:
        return JointTerm(self.name, tuple(self.of), self.how, self.weight, self.modality)


def _term_of(value: Any) -> Any:
    """`name`, `name@version` as an object."""
    if not isinstance(value, str):
        return value
    name, _, version = value.partition("@")
    return {"name": name, "version": version}


class ScoreRequest(Strict):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_REQUEST, EXAMPLE_PUBLISHED]})

    terms: list[Annotated[Term, BeforeValidator(_term_of)]] = Field(
        min_length=1, max_length=64, description="What to score with: objects, or text NAME or NAME@VERSION."
    )
    joint: list[Joint] = Field(default_factory=list, max_length=64)
    samples: list[Any] = Field(
        min_length=1, description='Objects {"question", "response"}, or samples with all their fields.'
    )
    timeout_s: float | None = Field(
        None, gt=0, description="Wall limit of one sample in one function; at most, and by default, the server's."
    )


class VerdictOut(BaseModel):
    """valid, or a reason; components: each function's own score, unweighted, and `name/part` for what it reported beside it."""

    id: str
    valid: bool
    score: float | None
    components: dict[str, float]
    reason: str
    notes: dict[str, str]
    seconds: dict[str, float]

    @classmethod
    def of(cls, trajectory_id: str, verdict: Verdict) -> VerdictOut:
        return cls(id=trajectory_id, **dataclasses.asdict(verdict))


class ScoreResponse(BaseModel):
    verdicts: list[VerdictOut] = Field(description="One a sample, in order.")
    versions: dict[str, str] = Field(description="Content hash of what scored, by term.")
    seconds: float = Field(description="Wall time of the request's scoring.")


class InstalledReward(BaseModel):
    name: str
    doc: str
    parameters: dict[str, Any] = Field(description="With their defaults; null where one must be given.")
    version: str = Field(description="Content hash for the default parameters; empty where one must be given.")
    network: bool
    deterministic: bool
    secrets: list[str]


class PublishedReward(BaseModel):
    name: str
    hash: str
    kind: str
    tags: list[str]
    at: float
    note: str
    retired: bool


class RewardList(BaseModel):
    installed: list[InstalledReward]
    published: list[PublishedReward]


class Problem(BaseModel):
    field: str = Field(
        description="Where in the request, such as samples[3].question.answer; empty: not about a field."
    )
    message: str


class ErrorBody(BaseModel):
    error: Problem

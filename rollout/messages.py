"""What travels between the rooms on the rollout side: questions in, trajectories out.

Neighbours: `orchestrator.datasets` makes `Question`s, `rollout.engine` makes `Trajectory`s, `rewards` and `actor` read both.
Invariants: frozen; JSON in, JSON out, without loss; token ids are the truth, text is a view of them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import Any

from rollout.transfer.manifest import WeightBucket


class AnswerKind(StrEnum):
    """How a reply is compared with the reference answer."""

    CHOICE = "choice"  # one of `Question.choices`, by letter or by text
    EXACT = "exact"  # the same text after normalisation
    NUMBER = "number"  # a number within `Question.tolerance`
    TRANSCRIPT = "transcript"  # the words that were spoken, by word error rate
    SET = "set"  # the same elements, in any order
    LIST = "list"  # the same elements, in this order
    MATH = "math"  # an expression of the same value


class FinishReason(StrEnum):
    STOP = "stop"  # the model ended its turn
    LENGTH = "length"  # cut at the token limit


@dataclass(frozen=True, slots=True)
class AudioRef:
    """One recording of a question.

    path: file as resolved at load time (absolute). sha256: hex digest of the file's bytes. seconds: decoded length.
    """

    path: str
    sha256: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Turn:
    """One earlier turn of a conversation; role: `human` or `assistant`, as in the chat template.

    audio: recordings of this turn, before its text.
    """

    role: str
    text: str
    audio: tuple[AudioRef, ...] = ()

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Turn:
        """Raises TypeError for an unknown or missing field."""
        return cls(**(data | {"audio": tuple(AudioRef(**a) for a in data.get("audio", ()))}))


@dataclass(frozen=True, slots=True)
class Question:
    """One item of a data set: audio when it or an earlier turn has a recording, else text only.

    prompt: the question in words, without options and without placeholders; audio: recordings of the last turn, before its
    text (`clips` has those of earlier turns, too); choices: options in the order shown (empty for
    short answers); answer: reference answer as text (for a choice: the option's text); tolerance: absolute, in the answer's
    unit, for AnswerKind.NUMBER; truth: the numbers behind the answer (`events`: what sounds when, how high, how loud);
    history: earlier turns, oldest first; rubric: what a judge should look for; dataset: name of the data set it came from.
    """

    id: str
    prompt: str
    answer: str
    answer_kind: AnswerKind
    choices: tuple[str, ...] = ()
    tolerance: float = 0.0
    audio: tuple[AudioRef, ...] = ()
    domain: str = ""
    task: str = ""
    split: str = ""
    source: str = ""
    truth: dict[str, Any] = field(default_factory=dict)
    history: tuple[Turn, ...] = ()
    rubric: str = ""
    dataset: str = ""

    @property
    def clips(self) -> tuple[AudioRef, ...]:
        """Every recording in the order of the prompt: earlier turns first, then the question's own."""
        return (*(clip for turn in self.history for clip in turn.audio), *self.audio)

    @property
    def is_audio(self) -> bool:
        return bool(self.audio) or any(turn.audio for turn in self.history)

    def with_clips(self, clips: Sequence[AudioRef]) -> Question:
        """The same question with these recordings in place of `clips`, in the same order. Raises ValueError for another number."""
        if len(clips) != len(self.clips):
            raise ValueError(f"question {self.id!r} has {len(self.clips)} recordings, not {len(clips)}")
        rest = iter(clips)
        history = tuple(dataclasses.replace(turn, audio=tuple(islice(rest, len(turn.audio)))) for turn in self.history)
        return dataclasses.replace(self, history=history, audio=tuple(rest))

    def to_json(self) -> str:
        data = dataclasses.asdict(self)
        for turn in data["history"]:
            if not turn["audio"]:
                del turn["audio"]
        for name in ("history", "rubric", "dataset"):  # most questions have none
            if not data[name]:
                del data[name]
        return json.dumps(data, ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Question:
        """Raises TypeError for an unknown or missing field, ValueError for an unknown answer kind."""
        data = dict(data)
        data["answer_kind"] = AnswerKind(data["answer_kind"])
        data["choices"] = tuple(data.get("choices", ()))
        data["audio"] = tuple(AudioRef(**a) for a in data.get("audio", ()))
        data["history"] = tuple(Turn.from_dict(turn) for turn in data.get("history", ()))
        return cls(**data)

    @classmethod
    def from_json(cls, line: str) -> Question:
        return cls.from_dict(json.loads(line))


@dataclass(frozen=True, slots=True)
class SamplingSpec:
    """How responses are drawn. temperature 0 is greedy; `seed` feeds every sample's own generator (sample i: seed + i)."""

    samples: int
    temperature: float
    max_new_tokens: int
    seed: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question as token ids, made in one place (`rollout.prompts`).

    compact_ids: one placeholder per clip chunk (what the engine is given); expanded_ids: every audio position spelled out
    (what the trainer sees, what the engine reports back); feature_keys: cache keys of the encoder features [T25, D], in
    placeholder order.
    """

    question_id: str
    compact_ids: tuple[int, ...]
    expanded_ids: tuple[int, ...]
    feature_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One sampled response.

    id: unique in the run (`{stage}/{round}/{question_id}/{sample}`); prompt_ids: expanded; response_ids: sampled, the end
    token included when finish_reason is STOP; logprobs: natural log, engine side, one a response token, of the raw
    distribution at temperature 1; versions: weights version that sampled each token; text: decoded response (a view).
    """

    id: str
    question_id: str
    sample: int
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    versions: tuple[int, ...]
    feature_keys: tuple[str, ...]
    finish_reason: FinishReason
    text: str

    @property
    def version(self) -> int:
        """Oldest weights version that sampled a token of this response."""
        return min(self.versions)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str | bytes) -> Trajectory:
        data = json.loads(line)
        for name in ("prompt_ids", "response_ids", "logprobs", "versions", "feature_keys"):
            data[name] = tuple(data[name])
        data["finish_reason"] = FinishReason(data["finish_reason"])
        return cls(**data)


@dataclass(frozen=True, slots=True)
class WeightUpdate:
    """New weights for engines, bucket by bucket, under checkpoint names, the frozen encoder left out.

    checksum: `whole_checksum` of all tensors; only_changed: an engine may keep what it finds to be the same by its digest.
    """

    version: int
    checksum: str
    buckets: tuple[WeightBucket, ...]
    only_changed: bool = False


@dataclass(frozen=True, slots=True)
class SharedWeights:
    """New weights for engines in shared memory of their host, where they may still be written.

    journal: file that says what is ready; number: of the publish, which the journal begins with; limit_s: how long a reader waits for
    its end, where the checksum stands; only_changed: as for `WeightUpdate`.
    """

    version: int
    journal: str
    number: int
    limit_s: float
    only_changed: bool = False


@dataclass(frozen=True, slots=True)
class LiveWeights:
    """New weights that pass once from the trainer's devices to all engines at the same time.

    way: how (`rollout.transfer.Way`); address: where both sides meet; number: of the publish; size: trainer rank 0 and every worker of
    every engine; limit_s: of every wait.
    """

    version: int
    way: str
    address: str
    number: int
    size: int
    limit_s: float


NewWeights = WeightUpdate | SharedWeights | LiveWeights


@dataclass(frozen=True, slots=True)
class SwapReport:
    """What an engine answers to a weight update: the version it now runs and the checksum it computed itself.

    loaded_bytes: put into the model, without what it held already; seconds: with the pause.
    """

    version: int
    checksum: str
    seconds: float
    loaded_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ProbeSequence:
    """A fixed sequence whose response log-probs engine and trainer must agree on (DESIGN: invariant 1)."""

    compact_ids: tuple[int, ...]
    expanded_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    feature_keys: tuple[str, ...]

"""What a benchmark is made of: how a record becomes a question, and which reward scores it (pure).

Neighbours: one module a benchmark makes a `Benchmark`; `registry` reads files with it. Invariants: every fault of a record is found,
not only the first; a record with a fault becomes no question.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rewards import RewardTerm
from rollout import AnswerKind


@dataclass(frozen=True, slots=True)
class Sound:
    """A recording as a record holds it: a path (relative to the file), or the bytes of the file itself."""

    path: str = ""
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Draft:
    """A question without its recordings; fields as in `rollout.Question`. id: unique in the benchmark ("" number of the record)."""

    id: str
    prompt: str
    answer: str
    answer_kind: AnswerKind
    sound: Sound
    choices: tuple[str, ...] = ()
    domain: str = ""
    task: str = ""
    split: str = ""
    source: str = ""
    rubric: str = ""


@dataclass(frozen=True, slots=True)
class JudgeAccess:
    """Where a judge answers: `url`, `model` and `secret` of the reward `judge` (docs/rewards/endpoints.md)."""

    url: str
    model: str
    secret: str = ""

    @property
    def parameters(self) -> dict[str, Any]:
        return {"url": self.url, "model": self.model} | ({"secret": self.secret} if self.secret else {})


@dataclass(frozen=True, slots=True)
class Benchmark:
    """files: what is looked for in a folder, the first pattern that matches; read: a record's draft, faults go into `Fields`;
    scoring: reward terms, with a judge or (None) without, raises ValueError where one is needed; graded: values lie between 0 and
    1, so that pass@k means nothing; source: where format and scoring are published."""

    name: str
    title: str
    files: tuple[str, ...]
    read: Callable[[Fields], Draft]
    scoring: Callable[[JudgeAccess | None], tuple[RewardTerm, ...]]
    source: str
    graded: bool = False


class Fields:
    """One record, asked field by field. What is wrong gathers in `faults`."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        self.record = record
        self.faults: list[str] = []

    def has(self, *names: str) -> bool:
        return any(self.record.get(name) is not None for name in names)

    def text(self, *names: str, required: bool = True) -> str:
        """The first of the fields that is there; numbers count as text."""
        for name in names:
            value = self.record.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                self.faults.append(f"field '{name}' must be text, not {type(value).__name__}")
                return ""
            if str(value).strip():
                return str(value).strip()
        if required:
            self.faults.append(f"field {_either(names)} is missing or empty")
        return ""

    def inner_text(self, name: str, inner: str = "text") -> str:
        """Text of a field that may hold it directly, or in an object under `inner`."""
        value = self.record.get(name)
        return (
            Fields({name: value.get(inner)})._handed_to(self).text(name)
            if isinstance(value, Mapping)
            else self.text(name)
        )

    def options(self, name: str = "choices") -> tuple[str, ...]:
        """A list of texts, an object of letters to texts, or either written as text; blank ones are padding."""
        value = self.record.get(name)
        if isinstance(value, str):
            value = _literal(value)
        if isinstance(value, Mapping):
            value = [value[key] for key in sorted(value)]
        if not isinstance(value, Sequence) or isinstance(value, str | bytes):
            self.faults.append(f"field '{name}' must be a list of options")
            return ()
        return self.checked_options(value)

    def checked_options(self, options: Sequence[Any]) -> tuple[str, ...]:
        """As text, without blank ones (4 questions of MMAR have one, MMSU pads with null). The same option twice is let through: 27
        questions of MMAU's test-mini have that."""
        found = tuple(text for option in options if option is not None and (text := str(option).strip()))
        if len(found) < 2:
            self.faults.append("needs two options or more")
        return found

    def answer_among(self, options: Sequence[str], *names: str) -> str:
        answer = self.text(*names)
        if answer and options and answer not in options:
            self.faults.append(f"answer {answer!r} is none of the options {list(options)}")
        return answer

    def one_of(self, known: Sequence[str], *names: str) -> str:
        """Case does not count; what comes back is written as in `known`."""
        value = self.text(*names)
        for word in known:
            if value.casefold() == word.casefold():
                return word
        if value:
            self.faults.append(f"field {_either(names)} is {value!r}, none of {', '.join(known)}")
        return ""

    def sound(self, *names: str) -> Sound:
        """The first of the fields that holds a recording: a path, or an object of `bytes` and `path` as Hugging Face embeds it."""
        for name in names:
            value = self.record.get(name)
            if isinstance(value, str) and value.strip():
                return Sound(path=value.strip())
            if isinstance(value, Mapping):
                if isinstance(value.get("bytes"), bytes) and value["bytes"]:
                    return Sound(body=value["bytes"])
                if isinstance(value.get("path"), str) and value["path"]:
                    return Sound(path=value["path"])
        self.faults.append(f"has no recording: field {_either(names)} must be a path or hold the bytes of a file")
        return Sound()

    def _handed_to(self, owner: Fields) -> Fields:
        self.faults = owner.faults
        return self


def answer_by(rules: str) -> tuple[RewardTerm, ...]:
    """The reward `answer` under the rules of a benchmark, and nothing else."""
    return (RewardTerm("answer", 1.0, "any", {"rules": rules}),)


def _either(names: Sequence[str]) -> str:
    return " or ".join(f"'{name}'" for name in names)


def _literal(text: str) -> Any:
    """A list written as JSON or as Python writes it; None when it is neither."""
    try:
        return json.loads(text)
    except ValueError:
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return None

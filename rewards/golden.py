"""Golden cases: responses with the score a reward function must give them.

A case is one JSON line:

    {"case": "right letter", "question": {"prompt": "…", "answer": "dog", "answer_kind": "choice", "choices": ["dog", "owl"]},
     "response": "<think>\nI hear a dog.\n</think>\nA", "expected": 1.0}

`expected` is a number, `{"low": 0.2, "high": 0.6}`, or `{"invalid": "part of the reason"}`. Optional: `parameters` of the
function, `finished` (default true), `tolerance` (default 1e-6), `reasoning_tokens` (default: words of the reasoning).
Clips: `{"path": "…"}` in `audio` of the question or of an earlier turn, relative to the file. Neighbours: `lab` runs them,
`published` keeps them with the source. Invariant: a bad line is refused with file and line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rewards.errors import RewardError
from rewards.messages import Sample
from rewards.parse import split_response

FIELDS = frozenset(
    {"case", "question", "response", "expected", "parameters", "finished", "tolerance", "reasoning_tokens"}
)
REQUIRED = ("case", "question", "response", "expected")
QUESTION_DEFAULTS: dict[str, Any] = {
    "id": "", "prompt": "", "answer": "", "answer_kind": "exact", "choices": [], "tolerance": 0.0, "audio": [], "domain": "",
    "task": "", "split": "", "source": "", "truth": {}, "history": [], "rubric": "", "dataset": "",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class GoldenCase:
    """name: unique in its file; low, high: bounds of the score, both None when an invalid verdict is expected; invalid: part of
    its reason."""

    name: str
    sample: Sample
    low: float | None
    high: float | None
    invalid: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)

    def holds(self, score: float | None, reason: str) -> bool:
        """Whether this score, or this reason of an invalid verdict, is what the case asks for."""
        if self.low is None or self.high is None:
            return score is None and self.invalid in reason
        return score is not None and self.low <= score <= self.high

    @property
    def wanted(self) -> str:
        """The expectation as people read it."""
        if self.low is None or self.high is None:
            return f"invalid: {self.invalid}"
        middle = (self.low + self.high) / 2
        return f"{middle:g}" if self.high - self.low < 1e-3 else f"{self.low:g} to {self.high:g}"


def load_cases(path: str | Path) -> list[GoldenCase]:
    """Raises RewardError naming file and line of the first bad case."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RewardError(f"the golden cases {path} can't be read: {error}") from error
    return parse_cases(text, str(path), path.parent)


def parse_cases(text: str, origin: str, folder: Path) -> list[GoldenCase]:
    """As `load_cases`, from text; origin: named in errors; folder: where relative clip paths start."""
    cases: dict[str, GoldenCase] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            case = _case(json.loads(line), folder)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RewardError(f"{origin}, line {number}: not a golden case: {error}") from error
        if case.name in cases:
            raise RewardError(f"{origin}, line {number}: the case {case.name!r} is there already; give it another name")
        cases[case.name] = case
    if not cases:
        raise RewardError(f"{origin} holds no golden case; one JSON object a line, see `mgrd rewards test --help`")
    return list(cases.values())


def _case(data: Mapping[str, Any], folder: Path) -> GoldenCase:
    unknown = sorted(set(data) - FIELDS)
    missing = [name for name in REQUIRED if name not in data]
    if unknown or missing:
        raise ValueError(f"unknown fields {unknown}, missing fields {missing}; known: {', '.join(sorted(FIELDS))}")
    low, high, invalid = _bounds(data["expected"], float(data.get("tolerance", 1e-6)))
    return GoldenCase(
        str(data["case"]),
        sample_of(data, folder, f"golden/{data['case']}"),
        low,
        high,
        invalid,
        dict(data.get("parameters", {})),
    )


def _bounds(expected: Any, tolerance: float) -> tuple[float | None, float | None, str]:
    if isinstance(expected, bool) or not isinstance(expected, (int, float, dict)):
        raise ValueError('expected is a number, {"low": …, "high": …} or {"invalid": "…"}')
    if not isinstance(expected, dict):
        return expected - tolerance, expected + tolerance, ""
    if set(expected) == {"invalid"}:
        return None, None, str(expected["invalid"])
    if set(expected) != {"low", "high"}:
        raise ValueError('expected is a number, {"low": …, "high": …} or {"invalid": "…"}')
    return float(expected["low"]), float(expected["high"]), ""


def sample_of(data: Mapping[str, Any], folder: Path, trajectory_id: str) -> Sample:
    """The sample of `{"question", "response"}` as in a case. Raises ValueError, TypeError, KeyError or AttributeError."""
    unknown = sorted(set(data["question"]) - set(QUESTION_DEFAULTS))
    if unknown:
        raise ValueError(f"unknown question fields {unknown}; known: {', '.join(QUESTION_DEFAULTS)}")
    question = QUESTION_DEFAULTS | dict(data["question"])
    question["history"] = [
        dict(turn) | {"audio": _clips(turn["audio"], folder)} if turn.get("audio") else turn
        for turn in question["history"]
    ]
    question["audio"] = _clips(question["audio"], folder)
    text = str(data["response"])
    reasoning, reply, well_formed = split_response(text)
    reasoning_tokens = int(data.get("reasoning_tokens", len(reasoning.split())))
    response_tokens = max(len(text.split()), reasoning_tokens)
    finished = bool(data.get("finished", True))
    return Sample(
        trajectory_id,
        question,
        text,
        reasoning,
        reply,
        well_formed,
        finished,
        response_tokens,
        reasoning_tokens,
    )


def _clips(clips: Iterable[Mapping[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Recordings with absolute paths, digest and length empty where they are not given."""
    return [
        {"sha256": "", "seconds": 0.0} | dict(clip) | {"path": str((folder / clip["path"]).absolute())}
        for clip in clips
    ]

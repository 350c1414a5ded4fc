"""What a remote reward is sent and what it must answer, version 1 (docs/rewards/endpoints.md).

Neighbours: `remoting` sends and reads these. Invariants: pure; file paths of this machine are not sent; an answer is judged sample by
sample, so that one bad entry costs one score; what has the wrong shape as a whole is a ValueError.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from rewards.endpoints.base import MAX_NOTES, clean
from rewards.messages import Sample
from rewards.sandbox_wire import Outcome
from rewards.secrets import redact

WIRE_VERSION = 1
MAX_NAME = 64  # characters of a part's name
MAX_PARTS = 64
MAX_SAID = 300  # characters of an error that a server reports for one sample


def sample_json(sample: Sample) -> bytes:
    """One entry of `samples`."""
    data = msgspec.to_builtins(sample)
    question = data["question"]
    for part in (question, *(question.get("history") or ())):
        if part is question or (isinstance(part, dict) and part.get("audio")):
            part["audio"] = [{"sha256": clip["sha256"], "seconds": clip["seconds"]} for clip in part.get("audio") or ()]
    return msgspec.json.encode(data)


def request_json(samples: Sequence[bytes], options: Mapping[str, Any]) -> bytes:
    """A request; samples as `sample_json` made them."""
    head = json.dumps({"version": WIRE_VERSION, "options": dict(options)}).encode()
    return head[:-1] + b',"samples":[' + b",".join(samples) + b"]}"


def read_results(answer: Any, count: int, service: str = "") -> list[Outcome]:
    """An outcome a sample. service: what the answer must call itself ("" anything).

    Raises ValueError when the answer as a whole is not of the schema.
    """
    if not isinstance(answer, dict) or not isinstance(answer.get("results"), list):
        raise ValueError('it is no object with a list "results"')
    if answer.get("version") != WIRE_VERSION:
        raise ValueError(f"its version is {str(answer.get('version'))[:20]!r}, not {WIRE_VERSION}")
    if service and answer.get("service") != service:
        raise ValueError(f"it comes from the service {str(answer.get('service'))[:80]!r}, not from {service!r}")
    results = answer["results"]
    if len(results) != count:
        raise ValueError(f"it has {len(results)} results for {count} samples")
    return [_outcome(result) for result in results]


def _outcome(result: Any) -> Outcome:
    if not isinstance(result, dict):
        return Outcome(None, f"gave a result of type {type(result).__name__}, not an object")
    notes = result.get("notes") or ""
    notes = clean(redact(notes), MAX_NOTES) if isinstance(notes, str) else ""
    if result.get("error") is not None:
        said = clean(redact(str(result["error"])), MAX_SAID) or "no text"
        return Outcome(None, f"reports an error: {said}", notes=notes)
    try:
        return Outcome(_number("score", result.get("score")), parts=_parts(result.get("parts")), notes=notes)
    except ValueError as error:
        return Outcome(None, str(error), notes=notes)


def _parts(parts: Any) -> dict[str, float]:
    if parts is None:
        return {}
    if not isinstance(parts, dict) or len(parts) > MAX_PARTS:
        raise ValueError(f"gave parts that are no object of at most {MAX_PARTS} numbers")
    return {clean(redact(name), MAX_NAME): _number(f"part {name[:MAX_NAME]!r}", value) for name, value in parts.items()}


def _number(what: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"gave a {what} of type {type(value).__name__}, not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"gave the {what} {number}, not a finite number")
    return number

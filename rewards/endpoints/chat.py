"""One chat completion: the request's fields, and what is taken from the answer.

Neighbours: `judging` sends the request through `client`. Invariants: pure; only fields that every OpenAI-compatible server knows
are sent unasked; an answer of another shape is a ValueError.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CHARACTERS_PER_TOKEN = 3.0  # reckoned low, so that costs are reckoned high where a server doesn't count


@dataclass(frozen=True, slots=True)
class Completion:
    """content: "" when there is none; cut: stopped by the length limit; estimated: the server did not count the tokens."""

    content: str
    cut: bool
    tokens_in: int
    tokens_out: int
    estimated: bool = False


def request_body(
    model: str,
    message: str,
    *,
    temperature: float | None,
    max_tokens: int,
    schema: Mapping[str, Any] | None,
    extra: Mapping[str, Any],
) -> bytes:
    """A request for one answer; schema: of JSON that the server shall enforce."""
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": message}]}
    if temperature is not None:
        body["temperature"] = temperature
    if max_tokens:
        body["max_tokens"] = max_tokens
    if schema is not None:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "judgement", "strict": True, "schema": dict(schema)},
        }
    return json.dumps(body | dict(extra)).encode()


def estimated_tokens(text: str) -> int:
    return round(len(text) / CHARACTERS_PER_TOKEN) + 1


def read_completion(answer: Any, message: str) -> Completion:
    """The first choice of an answer to `message`. Raises ValueError for what is no chat completion."""
    try:
        choice = answer["choices"][0]
        content = choice["message"].get("content") or ""
        reason = choice.get("finish_reason")
        usage = answer.get("usage") or {}
        counts = usage.get("prompt_tokens"), usage.get("completion_tokens")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError("it is no chat completion") from error
    if isinstance(content, list):  # parts, as some servers send them
        content = "".join(part.get("text", "") for part in content if isinstance(part, dict))
    if not isinstance(content, str):
        raise ValueError(f"its content is of type {type(content).__name__}, not text")
    tokens_in, tokens_out = _count(counts[0]), _count(counts[1])
    if tokens_in is None or tokens_out is None:
        return Completion(content, reason == "length", estimated_tokens(message), estimated_tokens(content), True)
    return Completion(content, reason == "length", tokens_in, tokens_out)


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None

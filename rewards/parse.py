"""The response split into reasoning and reply, in one place.

Neighbours: `service` callers make a `Sample` of each trajectory here; reward functions only see the result.
Invariant: pure; the format is the one of the chat template, `<think>\\n{reasoning}\\n</think>\\n{reply}`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from rewards.messages import Sample
from rollout.messages import FinishReason, Question, Trajectory

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
END_MARKS = ("<|EOT|>", "<|endoftext|>")  # survive only in text that was decoded with its special tokens


def split_response(text: str) -> tuple[str, str, bool]:
    """Reasoning, reply (both stripped) and whether the text opens with exactly one closed think block.

    Of malformed text as much as can be told apart is kept: an unclosed block is all reasoning and no reply; after several
    blocks the reply follows the last; without any block everything is reply.
    """
    for mark in END_MARKS:
        text = text.removesuffix(mark)
    opened, closed = text.find(THINK_OPEN), text.rfind(THINK_CLOSE)
    well_formed = opened == 0 and closed > 0 and text.count(THINK_OPEN) == 1 and text.count(THINK_CLOSE) == 1
    if closed < 0:
        if opened < 0:
            return "", text.strip(), False
        return text[opened + len(THINK_OPEN) :].strip(), "", False
    reply = text[closed + len(THINK_CLOSE) :].strip()
    if opened < 0 or opened > closed:
        return "", reply, False
    return text[opened + len(THINK_OPEN) : closed].strip(), reply, well_formed


def make_sample(
    question: Question,
    trajectory: Trajectory,
    *,
    reasoning_tokens: int | None = None,
    question_fields: dict[str, Any] | None = None,
) -> Sample:
    """What reward functions see of one trajectory.

    question_fields: `dataclasses.asdict(question)` where the caller has it: samples that share the dict travel with one copy of
    it. reasoning_tokens: length of the reasoning as the caller counted it; None takes the reasoning's share of the text's
    characters times the response's tokens, rounded. Raises ValueError when the trajectory answers another question.
    """
    if trajectory.question_id != question.id:
        raise ValueError(
            f"trajectory {trajectory.id!r} answers question {trajectory.question_id!r}, not {question.id!r}"
        )
    reasoning, reply, well_formed = split_response(trajectory.text)
    response_tokens = len(trajectory.response_ids)
    if reasoning_tokens is None:
        reasoning_tokens = round(response_tokens * len(reasoning) / max(1, len(trajectory.text)))
    return Sample(
        trajectory_id=trajectory.id,
        question=dataclasses.asdict(question) if question_fields is None else question_fields,
        text=trajectory.text,
        reasoning=reasoning,
        reply=reply,
        well_formed=well_formed,
        finished=trajectory.finish_reason is FinishReason.STOP,
        response_tokens=response_tokens,
        reasoning_tokens=reasoning_tokens,
    )

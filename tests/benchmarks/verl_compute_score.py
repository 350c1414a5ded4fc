"""The reward function `answer` as verl calls a custom one: `custom_reward_function.path` of the benchmark's configuration.

Neighbours: `reward_throughput` names this file to verl, whose reward workers import it. Invariant: the same function as on every
other side; what verl hands over is only split as `rewards.parse` splits it.
"""

from __future__ import annotations

from typing import Any

from rewards.functions.answer import answer
from rewards.messages import Sample
from rewards.parse import split_response


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any], **_: Any
) -> float:
    reasoning, reply, well_formed = split_response(solution_str)
    question = extra_info["question"]
    return answer(Sample("", question, solution_str, reasoning, reply, well_formed, True, 0, 0))

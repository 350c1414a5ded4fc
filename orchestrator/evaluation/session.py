"""Engines and rewards for an evaluation: what a run starts, without trainer, ledger and Redis.

Neighbours: `orchestrator.parts` is the same with a trainer; `runner` asks through `answer`. Invariants: everything started here is
stopped by leaving the context; a reward function that fails on too many samples pauses the evaluation, nothing of that chunk is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from orchestrator.config.schema import ExperimentConfig
from orchestrator.errors import MgrdError
from orchestrator.parts import Parts
from orchestrator.progress import ProgressView
from orchestrator.rundir import RunDirectory
from orchestrator.specs import engine_spec
from orchestrator.tracking import RunTracker
from rewards import ResolvedReward, StoredTrajectory, read_costs
from rollout import Question, RolloutPool, SamplingSpec

SHOWN = 5  # questions named in a message
COSTS = "reward_costs.jsonl"  # as `Parts` names it


class PromptTooLong(MgrdError):
    """Questions that leave no room for a response in the model's context."""


class Session(Parts):
    """A model ready to be asked. Needs a running Ray. Use as a context manager."""

    def __init__(
        self,
        config: ExperimentConfig,
        folder: Path,
        progress: ProgressView,
        tracker: RunTracker,
        *,
        model_path: Path,
        reward: ResolvedReward,
    ) -> None:
        super().__init__(config, RunDirectory(folder), tracker, progress, model_path=model_path, reward=reward)

    def __enter__(self) -> Self:
        try:
            self._start_engines()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start_engines(self) -> None:
        rollout = self.config.rollout
        self.pool = RolloutPool(
            engine_spec(self.config, self.model_path), rollout.workers, request_timeout_s=rollout.request_timeout_s
        )
        with ThreadPoolExecutor(2) as threads:
            engines = threads.submit(self.pool.start, rollout.start_timeout_s)
            service = threads.submit(self.rewards.start)
            engines.result()
            service.result()

    def answer(
        self, questions: Sequence[Question], spec: SamplingSpec, prefix: str, advance: Callable[..., None] | None = None
    ) -> list[list[StoredTrajectory]]:
        """Samples of each question with their verdicts. Raises RunPaused when a reward function keeps failing."""
        groups = self.rollout(questions, spec, prefix, advance)
        return [[scored.stored for scored in group] for group in self.judge.score(questions, groups, prefix)]

    def check_prompts(self, questions: Sequence[Question]) -> None:
        """Raises PromptTooLong naming questions whose prompt and response can't fit, and PromptError for text that can't be one."""
        room = self.config.model.max_model_len - self.config.rollout.max_new_tokens
        long = [prompt for prompt in self.prompts(questions) if len(prompt.expanded_ids) > room]
        if long:
            shown = ", ".join(f"{prompt.question_id} ({len(prompt.expanded_ids)})" for prompt in long[:SHOWN])
            raise PromptTooLong(
                f"{len(long)} of {len(questions)} questions have a prompt of more than {room} tokens: {shown}; raise "
                "model.max_model_len (if the model's context allows), lower rollout.max_new_tokens, or leave them out"
            )


def costs_in(folder: Path) -> dict[str, float]:
    """What judges have cost this evaluation, as metrics; empty without any."""
    file = folder / COSTS
    if not file.exists():
        return {}
    return {
        f"reward/{name}/total_{what}": float(getattr(cost, what))
        for name, cost in read_costs(file).items()
        for what in ("requests", "tokens_in", "tokens_out", "money")
    }

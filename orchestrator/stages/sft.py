"""Cold start: supervised fine-tuning on reasoning chains written from the truth of a small seed set (Step-Audio-R1, section 4.1).

Neighbours: `datasets.acoustic_qa.chains` writes the chains, `actor` trains. Invariant: the same seed gives the same batches, so
a stage that was killed and starts again ends with the same weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actor import SftExample
from orchestrator.datasets.acoustic_qa.chains import chain
from orchestrator.errors import RunFailed
from orchestrator.seeds import derive
from orchestrator.stages.plans import balanced, batches
from rollout import Question

if TYPE_CHECKING:
    from orchestrator.parts import Parts


@dataclass(frozen=True, slots=True)
class SftResult:
    """first_loss, last_loss: nats a response token, first and last step; tokens: response tokens trained on."""

    examples: int
    steps: int
    first_loss: float
    last_loss: float
    tokens: int


def run(parts: Parts, questions: Sequence[Question]) -> SftResult:
    """Train on chains for `pipeline.sft.questions` questions. Raises RunFailed when no question has a truth to write from."""
    config = parts.config.pipeline.sft
    usable = [q for q in questions if q.truth]
    if not usable:
        raise RunFailed(
            "stage sft: no training question carries `truth`, so no chain can be written; set pipeline.sft.enabled=false"
        )
    chosen = [
        usable[i]
        for i in balanced([q.task for q in usable], config.questions, derive(parts.config.run.seed, "sft", "questions"))
    ]
    prompts = parts.prompts(chosen)
    examples = [
        SftExample(
            prompt_ids=prompt.expanded_ids,
            response_ids=parts.builder.response(chain(question), question.answer),
            feature_keys=prompt.feature_keys,
        )
        for question, prompt in zip(chosen, prompts, strict=True)
    ]
    parts.trainer.reset_optimizer("sft")
    losses: list[float] = []
    tokens = 0
    with parts.progress.bar("cold-start SFT", config.steps) as advance:
        plan = batches(len(examples), config.batch, config.steps, derive(parts.config.run.seed, "sft", "order"))
        for step, indices in enumerate(plan, start=1):
            batch = [examples[i] for i in indices]
            report = parts.trainer.sft_step(batch)
            losses.append(report.metrics["loss"])
            tokens += sum(len(example.response_ids) for example in batch)
            parts.tracker.log(step, {f"sft/{name}": value for name, value in report.metrics.items()})
            advance(1, f"loss {losses[-1]:.3f}")
    return SftResult(len(examples), len(losses), losses[0] if losses else 0.0, losses[-1] if losses else 0.0, tokens)

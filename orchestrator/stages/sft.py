"""Cold start of the recipe `rl`: supervised steps on chains written from the truth of a small seed set.

Neighbours: `datasets.acoustic_qa.surrogate` gives the chains in the style and lengths asked for, `supervised` trains on them.
Invariant: the model sees the same prompt ids that it is later asked with.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from actor import SftExample
from orchestrator.datasets.acoustic_qa.surrogate import reasonings
from orchestrator.errors import RunFailed
from orchestrator.seeds import derive
from orchestrator.stages.context import StageContext
from orchestrator.stages.plans import balanced, batches
from orchestrator.stages.supervised import train


def run(context: StageContext) -> dict[str, Any]:
    """Train on chains for `pipeline.sft.questions` questions. Raises RunFailed when no question has a truth to write from."""
    parts, seed = context.parts, context.parts.config.run.seed
    config = parts.config.pipeline.sft
    usable = [q for q in context.questions.train if q.truth]
    if not usable:
        raise RunFailed(
            "stage sft: no training question carries `truth`, so no chain can be written; set pipeline.sft.enabled=false"
        )
    chosen = [usable[i] for i in balanced([q.task for q in usable], config.questions, derive(seed, "sft", "questions"))]
    length_seed = derive(seed, "sft", "lengths")
    examples = [
        SftExample(prompt.expanded_ids, parts.builder.response(reasoning, question.answer), prompt.feature_keys)
        for question, prompt in zip(chosen, parts.prompts(chosen), strict=True)
        for reasoning in reasonings(question, config.style, config.lengths, length_seed)
    ]
    plan = batches(len(examples), config.batch, config.steps, derive(seed, "sft", "order"))
    context.counts = {"questions": len(chosen), "chains": len(examples)}
    return asdict(train(context, examples, plan, title="cold-start SFT"))

"""Supervised refinement (Step-Audio-R1, section 4.2): SFT on kept chains together with text reasoning data.

Neighbours: `distil` kept the chains, `supervised` trains. Invariant: shares are of response tokens.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from orchestrator.datasets.demonstrations import AUDIO_REASONING, TASK_REASONING
from orchestrator.seeds import derive
from orchestrator.specs import supervised_optim
from orchestrator.stages.cold_start import chain_example, mixed, read_chains, text_reasoning, to_examples
from orchestrator.stages.context import StageContext
from orchestrator.stages.supervised import train


def run(context: StageContext) -> dict[str, Any]:
    """From the model of t-1."""
    parts, config = context.parts, context.parts.config.pipeline.refine
    kept = read_chains(context, f"t{context.stage.iteration}.distil")
    examples = {AUDIO_REASONING: [chain_example(chain) for chain in kept]}
    weights = {AUDIO_REASONING: 1.0}
    if config.text_share:
        examples[TASK_REASONING] = to_examples(context, text_reasoning(context.questions.text_train))
        weights = {AUDIO_REASONING: 1.0 - config.text_share, TASK_REASONING: config.text_share}
    seed = derive(parts.config.run.seed, context.stage.name, "order")
    flat, plan = mixed(examples, weights, config.batch, config.steps, seed)
    context.counts = {name: len(items) for name, items in examples.items()}
    optim = supervised_optim(parts.config, config.lr, config.warmup, config.steps)
    return asdict(train(context, flat, plan, title=context.stage.name, optim=optim)) | {"sources": context.counts}

"""Supervised refinement (Step-Audio-R1, section 4.2): SFT on kept chains together with text reasoning data.

Neighbours: `distil` kept the chains, `cold_start` knows the text reasoning data, `supervised` trains. Invariants: shares are of
response tokens; without text reasoning data chains alone are trained on, and that is noted.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from orchestrator.datasets.demonstrations import AUDIO_REASONING, TASK_REASONING
from orchestrator.seeds import derive
from orchestrator.specs import supervised_optim
from orchestrator.stages.cold_start import chain_example, mixed, read_chains, reasoned, to_examples, weights_of
from orchestrator.stages.context import StageContext
from orchestrator.stages.supervised import train


def run(context: StageContext) -> dict[str, Any]:
    """From the model of t-1."""
    parts, config = context.parts, context.parts.config.pipeline.refine
    kept = read_chains(context, f"t{context.stage.iteration}.distil")
    examples = {AUDIO_REASONING: [chain_example(chain) for chain in kept]}
    shares = {AUDIO_REASONING: 1.0 - config.text_share, TASK_REASONING: config.text_share}
    if config.text_share:
        examples[TASK_REASONING] = to_examples(context, reasoned(context.questions))
    weights = weights_of(context, shares, examples)
    seed = derive(parts.config.run.seed, context.stage.name, "order")
    flat, plan = mixed(examples, weights, config.batch, config.steps, seed)
    context.counts = {name: len(items) for name, items in examples.items()}
    optim = supervised_optim(parts.config, config.lr, config.warmup, config.steps)
    return asdict(train(context, flat, plan, title=context.stage.name, optim=optim)) | {"sources": context.counts}

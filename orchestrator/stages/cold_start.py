"""Cold start of the recipe `mgrd`: joint SFT on reasoning tasks, conversations and audio questions with the empty think form
(Step-Audio-R1, sections 3.1 and 4.1).

Neighbours: `datasets.demonstrations` and its generators bring the examples, `distil.sample_chains` the model's own reasoning about audio,
`datasets.mixing` the batches. Invariants: shares are of response tokens; the model sees the same prompt ids that it is later
asked with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from actor import SftExample
from orchestrator.datasets.demonstrations import (
    AUDIO_REASONING,
    TASK_REASONING,
    Demonstration,
    direct_audio,
)
from orchestrator.datasets.hearing_prompts import denying_demonstrations, hearing_demonstrations, hearing_prompts
from orchestrator.datasets.mixing import token_mixed_batches
from orchestrator.datasets.text_reasoning import reasoning_of
from orchestrator.distillation.chains import KeptChain
from orchestrator.hearing.perturb import Perturbation, perturbed
from orchestrator.seeds import derive
from orchestrator.specs import supervised_optim
from orchestrator.stages.context import StageContext
from orchestrator.stages.plans import balanced
from orchestrator.stages.supervised import train
from rollout import Question


def run(context: StageContext) -> dict[str, Any]:
    """One SFT over four sources, mixed by tokens."""
    parts, config = context.parts, context.parts.config.pipeline.cold_start
    examples = {name: to_examples(context, items) for name, items in demonstrations(context).items() if items}
    if "cold_start.chains" in context.results:
        kept = read_chains(context, "cold_start.chains")
        examples[AUDIO_REASONING] = [chain_example(chain) for chain in kept]
    weights = {name: share for name, share in asdict(config.mix).items() if examples.get(name)}
    seed = derive(parts.config.run.seed, "cold_start", "order")
    flat, plan = mixed(examples, weights, config.batch, config.steps, seed)
    context.counts = {name: len(items) for name, items in examples.items()}
    optim = supervised_optim(parts.config, config.lr, config.warmup, config.steps)
    trained = train(context, flat, plan, title=context.stage.name, optim=optim)
    return asdict(trained) | {"sources": context.counts}


def demonstrations(context: StageContext) -> dict[str, list[Demonstration]]:
    """By source: reasoning tasks, conversations, direct audio answers (some of them to open questions about a clip)."""
    questions, config = context.questions, context.parts.config.pipeline.cold_start
    seed = context.parts.config.run.seed
    found: dict[str, list[Demonstration]] = {
        TASK_REASONING: text_reasoning(questions.text_train),
    }
    for item in questions.conversations:
        found.setdefault(item.source, []).append(item)
    audio = drawn(questions.train, config.audio_questions, derive(seed, "cold_start", "audio"))
    asked = hearing_questions(questions.train, config.hearing_prompts, derive(seed, "cold_start", "hearing"))
    quiet = perturbed(
        hearing_questions(questions.train, config.silent_prompts, derive(seed, "cold_start", "silent")),
        Perturbation.SILENCE,
        folder=context.parts.directory.root / "perturbed",
        seed=0,
    )
    careless = hearing_questions(questions.train, config.careless_prompts, derive(seed, "cold_start", "careless"))
    for item in [
        *direct_audio(audio),
        *hearing_demonstrations(asked),
        *denying_demonstrations([*quiet, *careless], seed),
    ]:
        found.setdefault(item.source, []).append(item)
    return found


def text_reasoning(questions: Sequence[Question]) -> list[Demonstration]:
    """Worked answers of generated text questions; questions of other origin have no worked reasoning here and are left out."""
    return [
        Demonstration(q, reasoning_of(q), q.answer, TASK_REASONING) for q in questions if q.dataset == "text_reasoning"
    ]


def drawn(questions: Sequence[Question], count: int, seed: int) -> list[Question]:
    """Balanced over tasks."""
    return [questions[i] for i in balanced([q.task for q in questions], count, seed)]


def hearing_questions(questions: Sequence[Question], count: int, seed: int, split: str = "train") -> list[Question]:
    """`count` open questions about clips ("Can you hear this?"), from questions that have one clip and say what sounds in it."""
    usable = [q for q in questions if len(q.audio) == 1 and q.truth.get("events")]
    return hearing_prompts(drawn(usable, count, seed), seed, split) if count else []


def to_examples(context: StageContext, items: Sequence[Demonstration]) -> list[SftExample]:
    prompts = context.parts.prompts([item.question for item in items])
    builder = context.parts.builder
    return [
        SftExample(prompt.expanded_ids, builder.response(item.reasoning, item.reply), prompt.feature_keys)
        for item, prompt in zip(items, prompts, strict=True)
    ]


def chain_example(chain: KeptChain) -> SftExample:
    """Token in, token out: exactly the response that was sampled."""
    return SftExample(chain.prompt_ids, chain.response_ids, chain.feature_keys)


def read_chains(context: StageContext, stage: str) -> list[KeptChain]:
    """Chains that an earlier stage kept."""
    path = context.folder.parent / stage / "kept.jsonl"
    return [KeptChain.from_json(line) for line in path.read_text(encoding="utf-8").splitlines()]


def mixed(
    examples: dict[str, list[SftExample]], weights: dict[str, float], batch: int, steps: int, seed: int
) -> tuple[list[SftExample], list[list[int]]]:
    """All examples in one list, and batches of indices into it whose token shares follow the weights."""
    used = {name: examples[name] for name in weights}
    offsets: dict[str, int] = {}
    flat: list[SftExample] = []
    for name, items in used.items():
        offsets[name] = len(flat)
        flat += items
    lengths = {name: [len(item.response_ids) for item in items] for name, items in used.items()}
    drawn_batches = token_mixed_batches(lengths, weights, batch=batch, steps=steps, seed=seed)
    return flat, [[offsets[name] + index for name, index in members] for members in drawn_batches]

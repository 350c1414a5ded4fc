"""Cold start of the recipe `mgrd`: joint SFT on reasoning tasks, conversations and audio questions with the empty think form
(Step-Audio-R1, sections 3.1 and 4.1).

Neighbours: `datasets.demonstrations` and its generators bring the examples, `distil.chains` the model's own reasoning about audio,
`datasets.mixing` the batches. Invariants: shares are of response tokens; the model sees the same prompt ids that it is later
asked with; no clip is both said to be heard and denied; a share of the mix that has no examples is noted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from actor import SftExample
from orchestrator.config.recipe import ColdStartConfig
from orchestrator.datasets.demonstrations import (
    AUDIO_REASONING,
    TASK_REASONING,
    Demonstration,
    direct_audio,
)
from orchestrator.datasets.hearing_prompts import denying_demonstrations, hearing_demonstrations, hearing_prompts
from orchestrator.datasets.mixing import token_mixed_batches, usable_shares
from orchestrator.datasets.text_reasoning import has_reasoning, reasoning_of
from orchestrator.distillation.chains import KeptChain
from orchestrator.errors import RunFailed
from orchestrator.hearing.perturb import Perturbation, perturbed
from orchestrator.seeds import derive
from orchestrator.specs import supervised_optim
from orchestrator.stages.context import StageContext
from orchestrator.stages.plans import balanced
from orchestrator.stages.supervised import train
from rollout import Question

if TYPE_CHECKING:
    from orchestrator.data_stage import Questions

OWN_REASONING = (
    f"Text questions of your own are answered in RL alone; for supervised training give their reasoning as data.conversations of "
    f"the source {TASK_REASONING}"
)


def run(context: StageContext) -> dict[str, Any]:
    """One SFT over four sources, mixed by tokens. Raises RunFailed when none of them has examples."""
    parts, config = context.parts, context.parts.config.pipeline.cold_start
    examples = {name: to_examples(context, items) for name, items in demonstrations(context).items() if items}
    if "cold_start.chains" in context.results:
        kept = read_chains(context, "cold_start.chains")
        examples[AUDIO_REASONING] = [*examples.get(AUDIO_REASONING, []), *map(chain_example, kept)]
    mix = asdict(config.mix)
    if unknown := sorted(set(examples) - set(mix)):
        parts.progress.note(
            f"{context.stage.name}: demonstrations of {', '.join(unknown)} are left out; the sources of pipeline.cold_start.mix are "
            f"{', '.join(mix)}"
        )
    weights = weights_of(context, mix, examples)
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
    found: dict[str, list[Demonstration]] = {TASK_REASONING: reasoned(questions)}
    for item in questions.conversations:
        if item.source != TASK_REASONING:
            found.setdefault(item.source, []).append(item)
    heard = [question for question in questions.train if question.is_audio]
    audio = drawn(heard, config.audio_questions, derive(seed, "cold_start", "audio"))
    asked, careless, silent = asked_about_hearing(questions.train, config, seed)
    quiet = perturbed(silent, Perturbation.SILENCE, folder=context.parts.directory.root / "perturbed", seed=0)
    for item in [
        *direct_audio(audio),
        *hearing_demonstrations(asked),
        *denying_demonstrations([*quiet, *careless], seed),
    ]:
        found.setdefault(item.source, []).append(item)
    return found


def asked_about_hearing(
    questions: Sequence[Question], config: ColdStartConfig, seed: int
) -> tuple[list[Question], list[Question], list[Question]]:
    """Open questions about clips: those to be answered properly, carelessly, and with the clip silenced. No clip of the first is one
    of the others."""

    def prompts(count: int, name: str, without: Sequence[Question] = ()) -> list[Question]:
        return hearing_questions(questions, count, derive(seed, "cold_start", name), without=without)

    asked = prompts(config.hearing_prompts, "hearing")
    careless = prompts(config.careless_prompts, "careless", asked)
    return asked, careless, prompts(config.silent_prompts, "silent", asked)


def reasoned(questions: Questions) -> list[Demonstration]:
    """Reasoning tasks with their reasoning: generated text questions, and demonstrations that name this source."""
    return [
        *text_reasoning(questions.text_train),
        *(item for item in questions.conversations if item.source == TASK_REASONING),
    ]


def weights_of(
    context: StageContext, shares: Mapping[str, float], examples: Mapping[str, Sequence[SftExample]]
) -> dict[str, float]:
    """Shares of the sources that have examples; a share that has none is noted and goes to the others. Raises RunFailed when no
    source has any."""
    weights, missing = usable_shares(shares, examples)
    if not weights:
        raise RunFailed(
            f"stage {context.stage.name}: no source with a share has examples ({', '.join(missing)}); give data.text_train, "
            "data.conversations or data.train that hold some"
        )
    if missing:
        context.parts.progress.note(
            f"{context.stage.name}: there are no examples of {', '.join(missing)}; their share goes to {', '.join(weights)}"
            + (f". {OWN_REASONING}" if TASK_REASONING in missing else "")
        )
    return weights


def text_reasoning(questions: Sequence[Question]) -> list[Demonstration]:
    """Worked answers of generated text questions; questions of other origin have no worked reasoning here and are left out."""
    return [Demonstration(q, reasoning_of(q), q.answer, TASK_REASONING) for q in questions if has_reasoning(q)]


def drawn(questions: Sequence[Question], count: int, seed: int) -> list[Question]:
    """Balanced over tasks."""
    return [questions[i] for i in balanced([q.task for q in questions], count, seed)]


def hearing_questions(
    questions: Sequence[Question],
    count: int,
    seed: int,
    split: str = "train",
    without: Sequence[Question] = (),
) -> list[Question]:
    """`count` open questions about clips ("Can you hear this?"), from questions that have one clip and say what sounds in it; none
    about a clip of `without`."""
    taken = {clip.sha256 for question in without for clip in question.clips}
    usable = [q for q in questions if len(q.audio) == 1 and q.truth.get("events") and q.audio[0].sha256 not in taken]
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

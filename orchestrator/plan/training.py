"""Memory of a trainer rank: weights, gradients, optimizer and activations of the models it holds (pure).

Neighbours: `sizes` has the counts, `activations` the terms of a micro-batch, `assess` asks for every kind of rank. Invariants: a rank
holds what `actor.megatron.model.AudioGPT` builds on its pipeline stage; gradients and optimizer exist for trained parameters alone;
models on one rank are updated one after the other, so of activations and temporaries only the largest counts.

A trained parameter costs a rank e bytes of weight (e: bytes of the dtype), 4 of gradient (Megatron's DDP buffer in float32), and its
share of the optimizer: Megatron's distributed optimizer (ZeRO-1) splits the two moments, 8 bytes, and in bfloat16 the float32 master,
4 more, over data x context ranks; in float32 the master is the weight itself. With the optimizer offloaded these bytes lie in the
machine's memory, and come to the device by slices (moments) or for the length of a step (masters).

Pipeline (1F1B): stage s of p keeps the activations of min(p - s, micro-batches) micro-batches at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from actor import STEP_SLICE_NUMBERS, Layout
from orchestrator.plan import activations
from orchestrator.plan.activations import Method, Rows
from orchestrator.plan.memory import ELEMENT_BYTES, Memory
from orchestrator.plan.sizes import ModelSizes

# DDP pads its buffer to a multiple of the ranks that share the optimizer and of this.
BUFFER_MULTIPLE = 128


@dataclass(frozen=True, slots=True)
class Training:
    """Settings that memory depends on; names as in `actor.TrainerSpec`. tokens: of the largest micro-batch; reference: a frozen
    copy of the actor is kept for a KL penalty."""

    dtype: str
    tokens: int
    freeze: tuple[str, ...] = ()
    recompute: str = "none"
    offload_optimizer: bool = False
    chunk: tuple[int, int] = (1024, 16384)
    lora_rank: int = 0
    reference: bool = False
    cuda: bool = False

    @property
    def element(self) -> int:
        return ELEMENT_BYTES[self.dtype]

    def method(self, layout: Layout) -> Method:
        return Method(self.element, layout.tensor, layout.sequence, self.cuda, self.recompute, self.lora_rank)

    def frozen(self, name: str) -> bool:
        """Whether freezing covers all weights whose checkpoint names start with `name`."""
        return name.startswith(self.freeze)


@dataclass(frozen=True, slots=True)
class Counts:
    """Parameters on one rank, trained and frozen."""

    trained: int = 0
    frozen: int = 0

    @property
    def all(self) -> int:
        return self.trained + self.frozen


def stage_counts(
    sizes: ModelSizes, layout: Layout, stage: int, training: Training, *, critic: bool = False, second: bool = False
) -> Counts:
    """Parameters of one model on one rank of pipeline stage `stage`. critic: a value head [1, H] in place of the head; second:
    not the first model of the rank, which then has no adaptor of its own while the adaptor is frozen.

    The parts of a layer count as frozen when all of their weights are.
    """
    t, hidden = layout.tensor, sizes.hidden
    first, last = stage == 0, stage == layout.pipeline - 1
    vocabulary = sizes.padded_vocab // t * hidden
    own = sizes.layers // layout.pipeline
    qkv = (sizes.heads + 2 * sizes.kv_heads) // t * sizes.head_dim
    out = sizes.heads // t * sizes.head_dim
    parts: list[tuple[str, int]] = []
    for number in range(stage * own, (stage + 1) * own):
        layer = f"model.layers.{number}."
        parts += [
            (f"{layer}input_layernorm.", hidden),
            (f"{layer}self_attn.", (hidden + 1) * qkv + hidden * out),
            (f"{layer}post_attention_layernorm.", hidden),
            (f"{layer}mlp.", 3 * hidden * sizes.ffn // t),
        ]
    if first:
        parts.append(("model.embed_tokens.", vocabulary))
        if not (second and training.frozen("adapter.")):
            parts.append(("adapter.", sizes.adaptor))
    if last:
        parts.append(("model.norm.", hidden))
        if critic:
            parts.append(("value_head.", hidden))
        elif not sizes.tied:
            parts.append(("lm_head.", vocabulary))
        elif not first:
            parts.append(("model.embed_tokens.", vocabulary))
    frozen = trained = 0
    for name, count in parts:
        held = training.frozen(name) or (training.lora_rank > 0 and name.startswith(("model.", "lm_head.")))
        frozen, trained = (frozen + count, trained) if held else (frozen, trained + count)
    if training.lora_rank:
        # A [r, in] and B [out, r] of qkv, output projection, fc1 and fc2; the side that the layer splits is split here, too
        inner = (hidden + qkv) + (out + hidden) + (hidden + 2 * sizes.ffn // t) + (sizes.ffn // t + hidden)
        trained += own * training.lora_rank * inner
    return Counts(trained, frozen)


def model_memory(counts: Counts, layout: Layout, training: Training) -> Memory:
    """Weights, gradients and optimizer of one model on one rank."""
    shards = layout.data * layout.context
    multiple = math.lcm(shards, BUFFER_MULTIPLE)
    buffered = -(-counts.trained // multiple) * multiple
    state = (8 + (4 if training.element < 4 else 0)) * (buffered // shards)
    return Memory(
        weights=training.element * (counts.frozen + buffered),
        gradients=4 * buffered,
        optimizer=0 if training.offload_optimizer else state,
        host=state if training.offload_optimizer else 0,
    )


def kept_memory(sizes: ModelSizes, layout: Layout, stage: int, training: Training, *, critic: bool) -> Memory:
    """Activations of the micro-batches in flight on a stage, and temporaries, of one model."""
    rows = Rows.one_sequence(training.tokens, layout.context)
    method = training.method(layout)
    last = stage == layout.pipeline - 1
    own = sizes.layers // layout.pipeline
    one = activations.layers_bytes(sizes, rows, method, own, first=stage == 0, last=last)
    one += activations.once_bytes(sizes, rows, method)
    working = activations.layer_working_bytes(sizes, rows, method)
    if last:
        one += activations.head_bytes(sizes, rows, method, training.chunk, critic=critic)
        trained = not (training.frozen("lm_head.") or training.lora_rank)
        head = activations.head_working_bytes(sizes, rows, method, training.chunk, critic=critic, head_trained=trained)
        working = max(working, head)
    return Memory(activations=one * (layout.pipeline - stage), working=working)


def step_bytes(counts: Counts, layout: Layout, training: Training) -> int:
    """What the device holds for one optimizer step alone: denominators of a slice of this rank's shard, float32. With the optimizer
    offloaded also the slice's moments and all masters; in float32, where weights are stepped themselves, loading a checkpoint puts both
    moments of the whole shard beside them for a moment. Saving takes nothing: shards are put together in the machine's memory."""
    shard = counts.trained // (layout.data * layout.context)
    piece = min(shard, STEP_SLICE_NUMBERS)
    if not training.offload_optimizer:
        return 4 * piece
    return 4 * shard + 12 * piece if training.element < 4 else max(12 * piece, 8 * shard)


def rank_memory(
    sizes: ModelSizes,
    training: Training,
    actor: tuple[Layout, int] | None,
    critic: tuple[Layout, int] | None,
    reserve: int,
) -> Memory:
    """One rank that holds (layout, stage) of the actor, of the critic, or of both. reserve: bytes set aside."""
    held, moments = Memory(reserve=reserve), []
    for place, is_critic in ((actor, False), (critic, True)):
        if place is None:
            continue
        layout, stage = place
        second = is_critic and actor is not None
        counts = stage_counts(sizes, layout, stage, training, critic=is_critic, second=second)
        held += model_memory(counts, layout, training)
        if training.reference and not is_critic:
            copy = stage_counts(sizes, layout, stage, training, second=True)
            held += Memory(weights=training.element * copy.all)
        kept = kept_memory(sizes, layout, stage, training, critic=is_critic)
        # At the optimizer's step no activations are left: what it needs beyond their place is working memory, too.
        step = step_bytes(counts, layout, training)
        moments.append(replace(kept, working=max(kept.working, step - kept.activations)))
    return held + max(moments, key=lambda moment: moment.total)

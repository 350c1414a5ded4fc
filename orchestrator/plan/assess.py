"""From a configuration to what each kind of process needs, and whether the cluster has it.

Neighbours: `training` and `engines` do the arithmetic, `advice` finds what to change, `plan_cli` prints, `preflight` refuses.
Invariants: every problem names the figure and the limit; on a CPU there is no limit to compare with; nothing is started.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from actor import VOCAB_MULTIPLE, Layout
from orchestrator.config.layouts import critic_layout, layout_of, trainer_ranks
from orchestrator.config.schema import ExperimentConfig
from orchestrator.plan.engines import Serving, engine_memory, kv_bytes_per_token, whole_sequences
from orchestrator.plan.memory import ELEMENT_BYTES, GIB, RESERVE_BYTES, Memory
from orchestrator.plan.sizes import ModelSizes, model_sizes
from orchestrator.plan.training import Training, rank_memory


@dataclass(frozen=True, slots=True)
class Kind:
    """Processes that need the same. name: for people; count: GPUs (or CPU processes) of this kind; problem: why it cannot be,
    empty when it can."""

    name: str
    count: int
    memory: Memory
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Assessment:
    """limit: bytes of one GPU, 0 on a CPU; gpus, available: that the run takes and that the cluster has (0: not said);
    sequences: of full length that one engine's cache holds at once; problems: of the whole plan, the kinds' included."""

    kinds: tuple[Kind, ...]
    limit: int
    gpus: int
    available: int
    tokens: int
    kv_bytes_per_token: int
    sequences: float
    problems: tuple[str, ...]

    @property
    def fits(self) -> bool:
        return not self.problems

    @property
    def worst(self) -> Kind:
        return max(self.kinds, key=lambda kind: kind.memory.total)


def plan_of(config: ExperimentConfig) -> Assessment:
    """Raises OSError or ValueError for a model folder without a readable configuration."""
    return assess(config, model_sizes(config))


def assess(config: ExperimentConfig, sizes: ModelSizes) -> Assessment:
    cuda = config.actor.device == "cuda"
    limit = int(config.cluster.gpu_memory_gib * GIB) if cuda else 0
    serving = serving_of(config)
    engine = engine_memory(sizes, serving)
    sequences = whole_sequences(sizes, serving, engine)
    structural = [*_divisions(config, sizes), *_places(config)]
    kinds = (
        () if structural else (*_trainer_kinds(config, sizes, limit), _engine_kind(config, serving, engine, sequences))
    )
    return Assessment(
        kinds=kinds,
        limit=limit,
        gpus=gpus_of(config) if cuda else 0,
        available=config.cluster.nodes * config.cluster.gpus_per_node,
        tokens=config.actor.micro_batch_tokens,
        kv_bytes_per_token=kv_bytes_per_token(sizes, serving.tensor_parallel, ELEMENT_BYTES[serving.dtype]),
        sequences=sequences,
        problems=(*structural, *(f"{kind.name}: {kind.problem}" for kind in kinds if kind.problem)),
    )


def gpus_of(config: ExperimentConfig) -> int:
    """Ranks of actor and critic, and those of all engines."""
    engines = 0 if config.rollout.colocated else config.rollout.workers * config.rollout.tensor_parallel
    return trainer_ranks(config.actor) + engines


def training_of(config: ExperimentConfig) -> Training:
    actor = config.actor
    return Training(
        dtype=config.model.dtype,
        tokens=actor.micro_batch_tokens,
        freeze=tuple(actor.freeze),
        recompute=actor.recompute,
        offload_optimizer=actor.offload_optimizer,
        chunk=(actor.head_chunk_rows, actor.head_chunk_vocab),
        lora_rank=actor.lora.rank,
        reference=actor.ppo.kl_coef > 0,
        cuda=actor.device == "cuda",
    )


def serving_of(config: ExperimentConfig) -> Serving:
    rollout, cuda = config.rollout, config.actor.device == "cuda"
    return Serving(
        dtype=config.model.dtype,
        max_model_len=config.model.max_model_len,
        max_num_seqs=rollout.max_num_seqs,
        tensor_parallel=rollout.tensor_parallel,
        gpu_memory_utilization=rollout.gpu_memory_utilization,
        gpu_bytes=int(config.cluster.gpu_memory_gib * GIB) if cuda else 0,
        kv_cache_gib=rollout.kv_cache_gib,
    )


def _trainer_kinds(config: ExperimentConfig, sizes: ModelSizes, limit: int) -> list[Kind]:
    """Ranks by the pipeline stages that they hold; actor and critic may lie on the same ranks with different layouts."""
    actor = layout_of(config.actor, config.actor.world_size)
    critic = critic_layout(config.actor) or actor
    apart = config.actor.critic.placement == "apart"
    held: Counter[tuple[int | None, int | None]] = Counter()
    for rank in range(actor.world_size):
        held[_stage(actor, rank), None if apart else _stage(critic, rank)] += 1
    if apart:
        for rank in range(critic.world_size):
            held[None, _stage(critic, rank)] += 1
    training = training_of(config)
    kinds = []
    for (on_actor, on_critic), count in held.items():
        memory = rank_memory(
            sizes,
            training,
            None if on_actor is None else (actor, on_actor),
            None if on_critic is None else (critic, on_critic),
            RESERVE_BYTES if limit else 0,
        )
        parts = [
            f"{name}{_stage_name(layout, stage)}"
            for name, layout, stage in (("actor", actor, on_actor), ("critic", critic, on_critic))
            if stage is not None
        ]
        problem = ""
        if limit and memory.total > limit:
            problem = f"needs {memory.total / GIB:.1f} GiB, a GPU has {limit / GIB:.1f} GiB"
        kinds.append(Kind(" + ".join(parts), count, memory, problem))
    return kinds


def _engine_kind(config: ExperimentConfig, serving: Serving, memory: Memory, sequences: float) -> Kind:
    problem = ""
    if serving.gpu_bytes:
        share = serving.gpu_bytes * serving.gpu_memory_utilization
        if memory.kv_cache <= 0:
            problem = (
                f"weights and a forward pass take {(memory.weights + memory.working) / GIB:.1f} GiB, its share of the GPU "
                f"(rollout.gpu_memory_utilization={serving.gpu_memory_utilization:g}) is {share / GIB:.1f} GiB"
            )
        elif share + memory.reserve > serving.gpu_bytes:
            problem = (
                f"rollout.gpu_memory_utilization={serving.gpu_memory_utilization:g} leaves "
                f"{(serving.gpu_bytes - share) / GIB:.1f} GiB for CUDA itself and its graphs, {memory.reserve / GIB:.1f} GiB are set aside"
            )
    if not problem and sequences < 1:
        problem = f"its KV cache of {memory.kv_cache / GIB:.1f} GiB holds no sequence of model.max_model_len={serving.max_model_len}"
    return Kind("engine", config.rollout.workers * serving.tensor_parallel, memory, problem)


def _stage(layout: Layout, rank: int) -> int:
    """Pipeline stage of a rank: pipeline is the slowest order (`actor.layout`)."""
    return rank // (layout.world_size // layout.pipeline)


def _stage_name(layout: Layout, stage: int) -> str:
    if layout.pipeline == 1:
        return ""
    place = {0: "first", layout.pipeline - 1: "last"}.get(stage, "middle")
    return f", {place} stage ({stage + 1} of {layout.pipeline})"


def _divisions(config: ExperimentConfig, sizes: ModelSizes) -> list[str]:
    """Sizes of the model that the layouts do not divide."""
    layouts = [("actor", layout_of(config.actor, config.actor.world_size))]
    own = critic_layout(config.actor)
    if own is not None:
        layouts.append(("actor.critic", own))
    out = []
    split = (("attention heads", sizes.heads), ("key-value heads", sizes.kv_heads), ("MLP columns", sizes.ffn))
    for key, layout in layouts:
        for name, number in (*split, ("rows of vocabulary padding", VOCAB_MULTIPLE)):
            if number % layout.tensor:
                out.append(
                    f"{key}.tensor_parallel = {layout.tensor}: does not divide the model's {number} {name}; "
                    f"choose one of {_choices(sizes)}"
                )
        if sizes.layers % layout.pipeline:
            out.append(
                f"{key}.pipeline_parallel = {layout.pipeline}: does not divide the model's {sizes.layers} layers evenly"
            )
    t = config.rollout.tensor_parallel
    if sizes.heads % t or sizes.ffn % t or (sizes.kv_heads % t and t % sizes.kv_heads):
        out.append(
            f"rollout.tensor_parallel = {t}: does not divide the model's {sizes.heads} attention and {sizes.kv_heads} key-value heads"
        )
    return out


def _choices(sizes: ModelSizes) -> str:
    numbers = (sizes.heads, sizes.kv_heads, sizes.ffn, VOCAB_MULTIPLE)
    return ", ".join(str(t) for t in range(1, VOCAB_MULTIPLE + 1) if all(number % t == 0 for number in numbers))


def _places(config: ExperimentConfig) -> list[str]:
    """Whether the cluster has as many GPUs, and tensor-parallel ranks fit on one machine."""
    cluster = config.cluster
    if config.actor.device != "cuda":
        return []
    if not cluster.nodes:
        return []
    out = []
    have, want = cluster.nodes * cluster.gpus_per_node, gpus_of(config)
    if want > have:
        out.append(
            f"the plan takes {want} GPUs ({trainer_ranks(config.actor)} trainer ranks, {config.rollout.workers} engines of "
            f"{config.rollout.tensor_parallel}), the cluster has {have} ({cluster.nodes} x {cluster.gpus_per_node}); lower "
            "actor.world_size or rollout.workers"
        )
    tensors = [("actor.tensor_parallel", config.actor.tensor_parallel)]
    if config.actor.critic.placement != "shared":
        tensors.append(("actor.critic.tensor_parallel", config.actor.critic.tensor_parallel))
    for key, size in (*tensors, ("rollout.tensor_parallel", config.rollout.tensor_parallel)):
        if size > cluster.gpus_per_node:
            out.append(f"{key} = {size}: spans machines; at most cluster.gpus_per_node = {cluster.gpus_per_node}")
    return out

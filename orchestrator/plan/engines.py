"""Memory of a vLLM engine's rank: weights, room for a forward pass, and what is left for the KV cache (pure).

Neighbours: `assess` asks for it. Invariants: an engine takes gpu_memory_utilization of its GPU whatever it needs, so a small model
gets a large cache; on a CPU the cache is rollout.kv_cache_gib.

A token takes 2 L ceil(g/t) D e bytes of cache on each of t tensor-parallel ranks (keys and values; ranks beyond the g key-value heads
hold copies), in blocks as vLLM lays them out.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.plan.memory import ELEMENT_BYTES, GIB, RESERVE_BYTES, Memory
from orchestrator.plan.sizes import ModelSizes

VLLM_VOCAB_MULTIPLE = 64
# vLLM's default budget of tokens in one forward pass of a GPU server (max_num_batched_tokens).
BATCHED_TOKENS = 8192


@dataclass(frozen=True, slots=True)
class Serving:
    """Settings that memory depends on; names as in `rollout.EngineSpec`. gpu_bytes: of one GPU, 0 on a CPU."""

    dtype: str
    max_model_len: int
    max_num_seqs: int
    tensor_parallel: int
    gpu_memory_utilization: float
    gpu_bytes: int
    kv_cache_gib: int = 0
    with_encoder: bool = False


def kv_bytes_per_token(sizes: ModelSizes, tensor_parallel: int, element: int) -> int:
    """On one rank."""
    return 2 * sizes.layers * -(-sizes.kv_heads // tensor_parallel) * sizes.head_dim * element


def engine_weights(sizes: ModelSizes, serving: Serving) -> int:
    """Bytes on one rank: decoder split over ranks, norms and the audio side whole on each."""
    t, hidden = serving.tensor_parallel, sizes.hidden
    vocab = -(-sizes.vocab // VLLM_VOCAB_MULTIPLE) * VLLM_VOCAB_MULTIPLE
    groups = -(-sizes.kv_heads // t)
    qkv = (sizes.heads // t + 2 * groups) * sizes.head_dim
    layer = (hidden + 1) * qkv + hidden * (sizes.heads // t) * sizes.head_dim + 3 * hidden * sizes.ffn // t + 2 * hidden
    matrices = 1 if sizes.tied else 2
    decoder = matrices * vocab // t * hidden + sizes.layers * layer + hidden
    audio = sizes.adaptor + (sizes.encoder if serving.with_encoder else 0)
    return ELEMENT_BYTES[serving.dtype] * (decoder + audio)


def engine_working(sizes: ModelSizes, serving: Serving) -> int:
    """Room that vLLM's profiling pass finds taken: residual stream and MLP of a full batch, and logits of all sequences in
    float32 with the sampler's two copies."""
    e, t = ELEMENT_BYTES[serving.dtype], serving.tensor_parallel
    tokens = max(BATCHED_TOKENS, serving.max_model_len)
    return e * tokens * (3 * sizes.hidden + 3 * sizes.ffn // t) + 3 * 4 * serving.max_num_seqs * sizes.vocab


def engine_memory(sizes: ModelSizes, serving: Serving) -> Memory:
    """One rank of an engine. kv_cache below 0 says how much its weights alone are over its share of the GPU."""
    weights = engine_weights(sizes, serving)
    if not serving.gpu_bytes:
        return Memory(weights=weights, kv_cache=serving.kv_cache_gib * GIB)
    working = engine_working(sizes, serving)
    share = int(serving.gpu_bytes * serving.gpu_memory_utilization)
    return Memory(weights=weights, working=working, kv_cache=share - weights - working, reserve=RESERVE_BYTES)


def whole_sequences(sizes: ModelSizes, serving: Serving, memory: Memory) -> float:
    """How many sequences of max_model_len the cache holds."""
    per_token = kv_bytes_per_token(sizes, serving.tensor_parallel, ELEMENT_BYTES[serving.dtype])
    return memory.kv_cache / (per_token * serving.max_model_len)

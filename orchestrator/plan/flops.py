"""Floating-point operations that a model's update needs, for its share of what a GPU could do (pure).

Neighbours: `sizes` has the numbers of a model; tests/benchmarks/gpu_update.py divides by time and peak. Invariants: what is computed again
(recompute), padding and the optimizer do not count; only matrix products do.

A product of [n, a] with [a, b] takes 2 n a b. A backward pass takes each product twice more, once for its input and once for its weight
(Kaplan et al. 2020, section 2.1: 6 N a token and update); with LoRA the weights' own are left out, hence 4 N. Attention takes 4 h D a
layer for each pair of a query and a key it sees; a causal sequence of n has n (n + 1) / 2 pairs, half of what Chowdhery et al. (2022,
appendix B), whose definition of model FLOPs utilisation this is, count. The head counts for response tokens alone: no other row is
multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.plan.sizes import ModelSizes


@dataclass(frozen=True, slots=True)
class Work:
    """Of one update. rows: packed; pairs: of queries and keys; responses: response tokens."""

    rows: int
    pairs: int
    responses: int

    @classmethod
    def of(cls, *, questions: int, samples: int, prompt: int, response: int) -> Work:
        """`samples` responses to each prompt, which share its rows. The last response token predicts nothing, so it has no row."""
        own = response - 1
        alone = samples * (own * prompt + own * (own + 1) // 2)
        return cls(
            questions * (prompt + samples * own),
            questions * (prompt * (prompt + 1) // 2 + alone),
            questions * samples * response,
        )


def forward_flops(sizes: ModelSizes, work: Work, *, critic: bool) -> int:
    """One pass. critic: a value head in place of the vocabulary's."""
    query, key = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    layer = sizes.hidden * (2 * query + 2 * key + 3 * sizes.ffn)
    head = sizes.hidden * (1 if critic else sizes.vocab)
    return 2 * (work.rows * sizes.layers * layer + work.responses * head) + 4 * query * sizes.layers * work.pairs


def update_flops(sizes: ModelSizes, work: Work, *, critic: bool = False, lora: bool = False) -> int:
    """Forward and backward of one model; lora: the decoder's own matrices take no gradients (the updates' products are left out)."""
    forward = forward_flops(sizes, work, critic=critic)
    if not lora:
        return 3 * forward
    attention = 4 * sizes.heads * sizes.head_dim * sizes.layers * work.pairs
    return 2 * (forward - attention) + 3 * attention

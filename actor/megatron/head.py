"""Log-probs and entropies of response tokens straight from hidden states, without the logits ever being whole.

Neighbours: `actor.megatron.model` calls it on the last pipeline stage with the rows that predict response tokens.
Invariants: at most `chunk_rows` x `chunk_vocab` logits (float32) live at a time; where all of them fit into one chunk they are
kept for the backward pass, otherwise they are computed again; the same numbers, up to rounding, for every chunk size and every
split of the vocabulary over tensor-parallel ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist


class TokenOutputs(NamedTuple):
    """Policy: log-prob and entropy of each response token, float32 [T]."""

    logprobs_T: torch.Tensor
    entropies_T: torch.Tensor


@dataclass(frozen=True, slots=True)
class HeadChunks:
    """rows: response tokens, vocab: vocabulary entries (of this rank's part) that are turned into logits at a time."""

    rows: int
    vocab: int


@dataclass(frozen=True, slots=True)
class VocabularyPart:
    """What a tensor-parallel rank holds. first: id of its first row; size: ids it answers for, its padding rows left out; group:
    ranks that hold the other parts, None when there are none."""

    first: int
    size: int
    group: Any


def token_outputs(  # noqa: PLR0917
    hidden_TH: torch.Tensor,
    weight_VH: torch.Tensor,
    targets_T: torch.Tensor,
    part: VocabularyPart,
    chunks: HeadChunks,
    with_entropy_grad: bool,
) -> TokenOutputs:
    """From the hidden states that predict T tokens and this rank's rows of the head matrix. Gradients of `hidden_TH` come back
    summed over tensor-parallel ranks; entropies carry one with `with_entropy_grad` alone."""
    logprobs_T, entropies_T = _Head.apply(hidden_TH, weight_VH, targets_T, part, chunks, with_entropy_grad)
    return TokenOutputs(logprobs_T, entropies_T)


class _Head(torch.autograd.Function):
    """Softmax over a vocabulary in pieces: a running maximum m and, relative to it, the sums s of e^(x - m) and w of
    e^(x - m) (x - m); then log p(t) = x_t - m - log s and entropy = log s - w / s (Milakov and Gimelshein 2018, with w added)."""

    @staticmethod
    def forward(  # noqa: PLR0917 (autograd's form)
        ctx: Any,
        hidden_TH: torch.Tensor,
        weight_VH: torch.Tensor,
        targets_T: torch.Tensor,
        part: VocabularyPart,
        chunks: HeadChunks,
        with_entropy_grad: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = len(targets_T)
        local_T = targets_T - part.first
        here_T = (local_T >= 0) & (local_T < part.size)
        highest_T = hidden_TH.new_full((tokens,), -torch.inf, dtype=torch.float32)
        sums_3T = hidden_TH.new_zeros((3, tokens), dtype=torch.float32)  # s, w, x_t
        kept_TV = None
        for rows in _pieces(tokens, chunks.rows):
            m, s, w = highest_T[rows], sums_3T[0, rows], sums_3T[1, rows]
            for columns in _pieces(part.size, chunks.vocab):
                logits = (hidden_TH[rows] @ weight_VH[columns].T).float()
                inside = here_T[rows] & (local_T[rows] >= columns.start) & (local_T[rows] < columns.stop)
                place = torch.where(inside, local_T[rows] - columns.start, 0)
                sums_3T[2, rows] += torch.where(inside, logits.gather(1, place[:, None])[:, 0], 0.0)
                higher = torch.maximum(m, logits.amax(1))
                fall = torch.where(m == -torch.inf, 0.0, m - higher)
                shrink = fall.exp()
                logits -= higher[:, None]
                exponentials = logits.exp()
                w.copy_(shrink * (w + fall * s) + torch.linalg.vecdot(exponentials, logits))
                s.copy_(shrink * s + exponentials.sum(1))
                m.copy_(higher)
                if exponentials.shape == (tokens, part.size):
                    kept_TV = exponentials
        top_T = highest_T
        if part.group is not None:
            top_T = highest_T.clone()
            dist.all_reduce(top_T, op=dist.ReduceOp.MAX, group=part.group)
            fall_T = highest_T - top_T
            shrink_T = fall_T.exp()
            sums_3T[1] = shrink_T * (sums_3T[1] + fall_T * sums_3T[0])
            sums_3T[0] *= shrink_T
            dist.all_reduce(sums_3T, group=part.group)
            if kept_TV is not None:
                kept_TV *= shrink_T[:, None]
        total_T, weighted_T, target_T = sums_3T
        log_total_T = total_T.log()
        entropies_T = log_total_T - weighted_T / total_T
        ctx.part, ctx.chunks, ctx.with_entropy_grad = part, chunks, with_entropy_grad
        ctx.save_for_backward(hidden_TH, weight_VH, local_T, here_T, top_T + log_total_T, entropies_T, total_T, kept_TV)
        if not with_entropy_grad:
            ctx.mark_non_differentiable(entropies_T)
        return target_T - top_T - log_total_T, entropies_T

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        hidden_TH, weight_VH, local_T, here_T, norm_T, entropies_T, total_T, kept_TV = ctx.saved_tensors
        logprob_grad_T, entropy_grad_T = gradients
        assert logprob_grad_T is not None
        hidden_needed, weight_needed = ctx.needs_input_grad[:2]
        hidden_grad_TH = torch.zeros_like(hidden_TH, dtype=torch.float32) if hidden_needed else None
        weight_grad_VH = torch.zeros_like(weight_VH, dtype=torch.float32) if weight_needed else None
        for rows in _pieces(len(local_T), ctx.chunks.rows):
            for columns in _pieces(ctx.part.size, ctx.chunks.vocab):
                # d log p(t) / dx = [x is t] - p;  d entropy / dx = -p (log p + entropy)
                if kept_TV is not None and not ctx.with_entropy_grad:
                    grad = kept_TV * (-logprob_grad_T / total_T)[:, None]
                else:
                    if kept_TV is not None:
                        p = kept_TV / total_T[:, None]
                        log_p = p.log()
                    else:
                        log_p = (hidden_TH[rows] @ weight_VH[columns].T).float() - norm_T[rows, None]
                        p = log_p.exp()
                    grad = p * -logprob_grad_T[rows, None]
                inside = here_T[rows] & (local_T[rows] >= columns.start) & (local_T[rows] < columns.stop)
                place = torch.where(inside, local_T[rows] - columns.start, 0)
                grad.scatter_add_(1, place[:, None], torch.where(inside, logprob_grad_T[rows], 0.0)[:, None])
                if ctx.with_entropy_grad and entropy_grad_T is not None:
                    assert log_p is not None
                    spread = torch.where(p > 0, p * (log_p + entropies_T[rows, None]), 0.0)
                    grad -= spread * entropy_grad_T[rows, None]
                grad = grad.to(hidden_TH.dtype)
                if hidden_grad_TH is not None:
                    hidden_grad_TH[rows] += grad @ weight_VH[columns]
                if weight_grad_VH is not None:
                    weight_grad_VH[columns] += grad.T @ hidden_TH[rows]
        if hidden_grad_TH is not None and ctx.part.group is not None:
            dist.all_reduce(hidden_grad_TH, group=ctx.part.group)
        return (
            None if hidden_grad_TH is None else hidden_grad_TH.to(hidden_TH.dtype),
            None if weight_grad_VH is None else weight_grad_VH.to(weight_VH.dtype),
            *(None,) * 4,
        )


def _pieces(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))

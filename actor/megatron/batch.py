"""A packed micro-batch as tensors: token ids, audio rows, attention plan, targets.

Neighbours: `actor.packing` decided the rows; `actor.megatron.model` consumes the batch.
Invariants: token ids are exactly those that were sampled; as many audio rows as the adaptor yields for the features, checked
here, so that a wrong feature file stops with its key instead of training on shifted audio.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from actor.megatron.attention import PackedAttention, PaddedCall, rotary_factors
from actor.packing import AttentionCall, PackedRows, RankRows


class BatchError(ValueError):
    """Sequences and their audio do not fit together; the message names the feature key."""


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """What the trainer needs of an experience, an SFT example or a probe: ids and audio."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    feature_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AudioRows:
    """One clip chunk for the model. rows: adaptor outputs it yields; features [T25, D]; embeddings [rows, H] when the adaptor
    is frozen, else None."""

    rows: int
    features: torch.Tensor
    embeddings: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """N rows of this rank, out of a packed micro-batch with T response tokens of B sequences.

    audio_rows_A: own rows that hold audio; audio_AH: their embeddings (frozen adaptor), else None and `features` feeds the
    adaptor, of whose outputs audio_picks_A are these rows; head_rows_K, head_targets_K: own rows that predict, and what; order_T:
    where each response token lies among the K of all context-parallel ranks, None for one such rank, whose K are the T; targets_T:
    response tokens; members: index of each sequence in the caller's list; lengths: its response tokens; counts: False for the
    stand-in that a data-parallel share without sequences of its own runs, whose loss is nothing.
    """

    input_ids_N: torch.Tensor
    attention: PackedAttention
    audio_rows_A: torch.Tensor
    audio_AH: torch.Tensor | None
    audio_picks_A: torch.Tensor
    features: tuple[torch.Tensor, ...]
    head_rows_K: torch.Tensor
    head_targets_K: torch.Tensor
    order_T: torch.Tensor | None
    targets_T: torch.Tensor
    members: tuple[int, ...]
    lengths: tuple[int, ...]
    counts: bool = True

    def gather(self, values: Sequence[torch.Tensor]) -> torch.Tensor:
        """Concatenate the [R] tensors of this micro-batch's sequences out of a list over all sequences."""
        return torch.cat([values[member] for member in self.members]).to(self.targets_T.device)

    def spread(self, values: Mapping[int, float]) -> torch.Tensor:
        """[T]: one value a sequence, by member, at each of its response tokens; float32."""
        each_B = torch.tensor([float(values[member]) for member in self.members])
        return each_B.repeat_interleave(torch.tensor(self.lengths)).to(self.targets_T.device)

    def scatter(self, values_T: torch.Tensor) -> dict[int, torch.Tensor]:
        """Cut a [T] tensor into one CPU tensor [R] a sequence, by member."""
        return dict(zip(self.members, values_T.detach().cpu().split(self.lengths), strict=True))


def build(
    packed: PackedRows,
    own: RankRows,
    sequences: Sequence[TokenSequence],
    audio: Mapping[str, AudioRows] | None,
    *,
    audio_patch_id: int,
    head_dim: int,
    rotary_base: float,
    device: torch.device,
    counts: bool = True,
) -> MicroBatch:
    """Tensors of one micro-batch on `device`, of the rows that this rank runs. audio: None on a pipeline stage that embeds
    nothing. Raises BatchError when placeholders and audio differ in number."""
    ids = torch.zeros(packed.rows, dtype=torch.long)
    keys: list[str] = []
    for member, start in zip(packed.prompt_member, packed.prompt_start, strict=True):
        sequence = sequences[member]
        ids[start : start + len(sequence.prompt_ids)] = torch.tensor(sequence.prompt_ids)
        if audio is not None:
            placeholders = sequence.prompt_ids.count(audio_patch_id)
            expected = sum(audio[key].rows for key in sequence.feature_keys)
            if placeholders != expected:
                raise BatchError(
                    f"a prompt has {placeholders} audio placeholders, its features {list(sequence.feature_keys)} yield "
                    f"{expected}; the prompt was built for other audio or another model"
                )
        keys.extend(sequence.feature_keys)
    targets = []
    for member, start in zip(packed.members, packed.response_row_start, strict=True):
        if audio_patch_id in sequences[member].response_ids:
            raise BatchError(f"a response holds the audio placeholder (id {audio_patch_id}); ban it when sampling")
        response = torch.tensor(sequences[member].response_ids)
        ids[start : start + len(response) - 1] = response[:-1]
        targets.append(response)
    targets_T = torch.cat(targets)
    rows_N = torch.from_numpy(own.rows_n)
    clips = [audio[key] for key in keys] if audio is not None else []
    is_audio = ids == audio_patch_id
    # The k-th audio row takes the k-th row that the prompts' clips yield, one after the other.
    pick = (is_audio.cumsum(0) - 1)[rows_N]
    audio_rows_A = is_audio[rows_N].nonzero()[:, 0] if clips else torch.empty(0, dtype=torch.long)
    picks_A = pick[audio_rows_A]
    embeddings = [clip.embeddings for clip in clips if clip.embeddings is not None]
    frozen = len(embeddings) == len(clips)
    cos, sin = rotary_factors(torch.from_numpy(packed.positions_N)[rows_N], head_dim, rotary_base)
    attention = PackedAttention(
        qkv_format="thd",
        cos_N1D=cos.to(device),
        sin_N1D=sin.to(device),
        calls=tuple(_call(call, device) for call in own.calls),
        inverse_N=_rows(own.inverse_n, device),
        head_rows_K=torch.from_numpy(own.head_rows_K).to(device),
    )
    whole = len(own.rows_n) == packed.rows
    audio_AH = torch.cat(embeddings) if frozen and clips else None
    return MicroBatch(
        input_ids_N=ids[rows_N].to(device),
        attention=attention,
        audio_rows_A=audio_rows_A.to(device),
        audio_AH=audio_AH if audio_AH is None or whole else audio_AH[picks_A.to(audio_AH.device)],
        audio_picks_A=picks_A.to(device),
        features=() if frozen else tuple(clip.features for clip in clips),
        head_rows_K=attention.head_rows_K,
        head_targets_K=targets_T[torch.from_numpy(own.head_tokens_K)].to(device),
        order_T=None if whole else torch.from_numpy(own.order_T).to(device),
        targets_T=targets_T.to(device),
        members=packed.members,
        lengths=tuple(len(sequences[member].response_ids) for member in packed.members),
        counts=counts,
    )


def _call(call: AttentionCall, device: torch.device) -> PaddedCall:
    bias = None
    if call.mask_BQK is not None:
        mask_B1QK = torch.from_numpy(call.mask_BQK)[:, None]
        bias = torch.zeros(mask_B1QK.shape).masked_fill_(~mask_B1QK, float("-inf")).to(device)
    (batch, queries), keys = call.query_rows_BQ.shape, call.key_rows_BK.shape[1]
    query_rows, key_rows = (_rows(rows.ravel(), device) for rows in (call.query_rows_BQ, call.key_rows_BK))
    return PaddedCall(query_rows, key_rows, (batch, queries, keys), bias)


def _rows(rows: np.ndarray, device: torch.device) -> torch.Tensor | slice:
    """Consecutive ones as a slice."""
    first = int(rows[0])
    if (np.diff(rows) == 1).all():
        return slice(first, first + len(rows))
    return torch.from_numpy(rows).to(device)

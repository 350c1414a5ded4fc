"""From a list of sequences to the micro-batches this rank runs: packing, data-parallel shares, tensors.

Neighbours: `actor.balance` and `actor.packing` have the rules, `actor.audio` the clips, `actor.megatron.batch` the tensors;
`actor.trainer` runs the result.
Invariants: every rank computes the same plan from the same list; all ranks run the same number of optimizer steps, each with
at least one micro-batch; clips are read where they are embedded, on the first pipeline stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from actor import balance, packing
from actor.audio import AudioBank
from actor.megatron.batch import AudioRows, MicroBatch, TokenSequence, build
from actor.megatron.parallel import World
from actor.messages import Experience, PreferencePair, SftExample
from rollout import ProbeSequence


@dataclass(frozen=True, slots=True)
class Step:
    """What one optimizer step (or one forward pass) needs. batches: this rank's micro-batches; tokens, sequences: response
    tokens and sequences over all ranks."""

    batches: tuple[MicroBatch, ...]
    tokens: int
    sequences: int


def token_sequence(item: Experience | SftExample | ProbeSequence) -> TokenSequence:
    prompt_ids = item.expanded_ids if isinstance(item, ProbeSequence) else item.prompt_ids
    return TokenSequence(prompt_ids, item.response_ids, item.feature_keys)


def pair_sequences(pairs: Sequence[PreferencePair]) -> list[TokenSequence]:
    """Sequence 2i is the chosen response of pair i, 2i + 1 the rejected one."""
    return [
        TokenSequence(pair.prompt_ids, response, pair.feature_keys)
        for pair in pairs
        for response in (pair.chosen_ids, pair.rejected_ids)
    ]


class Planner:
    """Plans for one model on one rank. budget: most packed rows of a micro-batch; share_prompts: samples of one question
    share its prompt's rows (same numbers, less work); cost: what ranks and micro-batches are balanced by."""

    def __init__(
        self,
        world: World,
        bank: AudioBank,
        *,
        budget: int,
        audio_patch_id: int,
        head_dim: int,
        rotary_base: float,
        share_prompts: bool = True,
        cost: balance.Cost = balance.ROWS,
    ) -> None:
        self._world = world
        self._bank = bank
        self._budget = budget
        self._audio_patch_id = audio_patch_id
        self._head_dim = head_dim
        self._rotary_base = rotary_base
        self.share_prompts = share_prompts
        self._cost = cost

    def steps(self, sequences: Sequence[TokenSequence], minibatches: int = 1, seed: int = 0) -> list[Step]:
        """One Step a minibatch; with minibatches=1 the whole list in one.

        Raises PackingError for a sequence over the budget, BatchError or FeatureError for audio that does not fit.
        """
        prompts = balance.prompt_ids([(sequence.prompt_ids, sequence.feature_keys) for sequence in sequences])
        lengths = [
            balance.Lengths(prompt, len(sequence.prompt_ids), len(sequence.response_ids))
            for prompt, sequence in zip(prompts, sequences, strict=True)
        ]
        units = balance.make_units(lengths, self._budget, self.share_prompts)
        parts = balance.split_minibatches(units, minibatches, seed)
        return [self._step(part, sequences, lengths) for part in parts]

    def _step(
        self, units: list[balance.Unit], sequences: Sequence[TokenSequence], lengths: Sequence[balance.Lengths]
    ) -> Step:
        layout = self._world.layout
        mine = balance.plan(units, lengths, layout.data, self._budget, self._cost)[self._world.data_rank]
        counts = bool(mine)
        bins = mine or [units[:1]]
        members = [member for bin_ in bins for unit in bin_ for member in unit.members]
        audio = None
        if self._world.first_stage:
            audio = self._bank.clips(key for member in members for key in sequences[member].feature_keys)
        everyone = [member for unit in units for member in unit.members]
        return Step(
            batches=tuple(
                self._tensors(packing.lay_out(bin_, lengths, layout.row_multiple), sequences, audio, counts)
                for bin_ in bins
            ),
            tokens=sum(lengths[member].response_tokens for member in everyone),
            sequences=len(everyone),
        )

    def _tensors(
        self,
        rows: packing.PackedRows,
        sequences: Sequence[TokenSequence],
        audio: dict[str, AudioRows] | None,
        counts: bool,
    ) -> MicroBatch:
        device: torch.device = self._world.device
        return build(
            rows,
            packing.rank_rows(rows, self._world.context_rank, self._world.layout.context),
            sequences,
            audio,
            audio_patch_id=self._audio_patch_id,
            head_dim=self._head_dim,
            rotary_base=self._rotary_base,
            device=device,
            counts=counts,
        )

"""How a batch of sequences becomes packed micro-batches: which rank, which micro-batch, which row (pure, no torch).

Neighbours: `actor.trainer` asks for a plan, `actor.megatron.batch` turns each `PackedRows` into tensors.
Invariants: every sequence is placed exactly once; samples of one question share the rows of their prompt (causal attention
makes a prompt's hidden states independent of what follows, so sharing changes no number beyond rounding); a micro-batch
holds at most `budget` rows; the same input gives the same plan on every rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Padding allowed inside one attention call, as a share of queries x keys. Less padding means more and smaller calls; 128
# responses of 17-52 tokens make three to five calls at this value.
ATTENTION_WASTE = 0.2


class PackingError(ValueError):
    """A batch that cannot be packed; the message names the sequence and the limit."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """What packing needs to know of one sequence: tokens of prompt and response, and which prompt it is (equal prompts of
    equal audio carry equal `prompt`)."""

    prompt: int
    prompt_tokens: int
    response_tokens: int


@dataclass(frozen=True, slots=True)
class Unit:
    """One prompt with some of its responses: what is never cut. members: sequence indices; rows: packed rows it takes
    (the prompt once, each response without its last token, which predicts nothing)."""

    members: tuple[int, ...]
    rows: int


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """One attention call over B stretches of rows, right-padded with row 0.

    query_rows_BQ, key_rows_BK: packed row of each position; mask_BQK: which keys a query sees, None where queries and keys
    are the same rows and plain causal order says it (padding on the right then reaches no real row).
    """

    query_rows_BQ: np.ndarray
    key_rows_BK: np.ndarray
    mask_BQK: np.ndarray | None


@dataclass(frozen=True, slots=True)
class PackedRows:
    """One micro-batch of N rows with T response tokens of B sequences.

    members: sequence index of each of the B sequences; prompt_member, prompt_start: for each distinct prompt, a sequence
    that carries it and its first row; positions_N: position of the row in its sequence; response_rows_T: the row whose
    output predicts the response token; response_start: offsets [B + 1] of the sequences in T; response_row_start: first own
    row of each sequence; calls: attention calls, in which every row is a query once; inverse_N: where a row's output lies in
    the calls' concatenated, flattened outputs.
    """

    members: tuple[int, ...]
    prompt_member: tuple[int, ...]
    prompt_start: tuple[int, ...]
    positions_N: np.ndarray
    response_rows_T: np.ndarray
    response_start: np.ndarray
    response_row_start: tuple[int, ...]
    calls: tuple[AttentionCall, ...]
    inverse_N: np.ndarray

    @property
    def rows(self) -> int:
        return len(self.positions_N)


def prompt_ids(keys: Sequence[object]) -> list[int]:
    """Number equal (hashable) prompt keys alike, in order of first appearance."""
    seen: dict[object, int] = {}
    return [seen.setdefault(key, len(seen)) for key in keys]


def make_units(lengths: Sequence[Lengths], budget: int, share: bool = True) -> list[Unit]:
    """Sequences → units of at most `budget` rows. share=False: every sequence keeps a prompt of its own.

    Raises PackingError for an empty prompt or response and for a sequence that alone exceeds the budget.
    """
    units: list[Unit] = []
    open_units: dict[int, tuple[list[int], int]] = {}
    for index, item in enumerate(lengths):
        if item.prompt_tokens < 1 or item.response_tokens < 1:
            raise PackingError(
                f"sequence {index} has {item.prompt_tokens} prompt and {item.response_tokens} response tokens; both need at least 1"
            )
        own = item.response_tokens - 1
        if item.prompt_tokens + own > budget:
            raise PackingError(
                f"sequence {index} takes {item.prompt_tokens + own} rows, more than micro_batch_tokens={budget}; "
                "raise micro_batch_tokens or shorten the sequence"
            )
        members, rows = open_units.get(item.prompt, ([], 0)) if share else ([], 0)
        if members and rows + own > budget:
            units.append(Unit(tuple(members), rows))
            members, rows = [], 0
        rows = rows + own if members else item.prompt_tokens + own
        members = [*members, index]
        if share:
            open_units[item.prompt] = (members, rows)
        else:
            units.append(Unit(tuple(members), rows))
    units.extend(Unit(tuple(members), rows) for members, rows in open_units.values())
    return sorted(units, key=lambda unit: unit.members)


def balance(units: Sequence[Unit], ranks: int) -> list[list[Unit]]:
    """Longest unit first to the least loaded rank; the heaviest rank exceeds the lightest by at most one unit."""
    shares: list[list[Unit]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for unit in sorted(units, key=lambda unit: (-unit.rows, unit.members)):
        rank = loads.index(min(loads))
        shares[rank].append(unit)
        loads[rank] += unit.rows
    return [sorted(share, key=lambda unit: unit.members) for share in shares]


def first_fit_decreasing(units: Sequence[Unit], budget: int) -> list[list[Unit]]:
    """Micro-batches of at most `budget` rows: longest unit first, each into the first micro-batch with room."""
    bins: list[list[Unit]] = []
    loads: list[int] = []
    for unit in sorted(units, key=lambda unit: (-unit.rows, unit.members)):
        slot = next((i for i, load in enumerate(loads) if load + unit.rows <= budget), None)
        if slot is None:
            bins.append([unit])
            loads.append(unit.rows)
        else:
            bins[slot].append(unit)
            loads[slot] += unit.rows
    return bins


def split_minibatches(units: Sequence[Unit], count: int, seed: int) -> list[list[Unit]]:
    """Cut units into `count` parts of nearly equal numbers of sequences, in an order drawn from `seed`.

    Samples of one prompt stay together, so that they can share its rows. Raises PackingError when there are fewer units.
    """
    if count == 1:
        return [list(units)]
    if len(units) < count:
        raise PackingError(f"{len(units)} prompts cannot make {count} minibatches; lower ppo.minibatches")
    order = np.random.default_rng(seed).permutation(len(units))
    total = sum(len(unit.members) for unit in units)
    parts: list[list[Unit]] = [[] for _ in range(count)]
    part, placed = 0, 0
    for rank, index in enumerate(order):
        unit, left = units[index], len(order) - rank
        full = placed >= total * (part + 1) / count
        if part < count - 1 and parts[part] and (full or left == count - part - 1):
            part += 1
        parts[part].append(unit)
        placed += len(unit.members)
    return parts


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Rows that attend together: each query sees the keys up to itself, the last query sees all."""

    queries: np.ndarray
    keys: np.ndarray

    @property
    def plain(self) -> bool:
        return len(self.queries) == len(self.keys)


def lay_out(units: Sequence[Unit], lengths: Sequence[Lengths]) -> PackedRows:
    """Rows of one micro-batch: unit after unit, each prompt followed by the responses that share it."""
    members: list[int] = []
    prompt_member: list[int] = []
    prompt_start: list[int] = []
    response_row_start: list[int] = []
    positions: list[np.ndarray] = []
    response_rows: list[np.ndarray] = []
    stretches: list[_Stretch] = []
    row = 0
    for unit in units:
        prompt_tokens = lengths[unit.members[0]].prompt_tokens
        prompt_rows = np.arange(row, row + prompt_tokens)
        prompt_member.append(unit.members[0])
        prompt_start.append(row)
        positions.append(np.arange(prompt_tokens))
        row += prompt_tokens
        shared = len(unit.members) > 1
        if shared:
            stretches.append(_Stretch(prompt_rows, prompt_rows))
        for member in unit.members:
            own = np.arange(row, row + lengths[member].response_tokens - 1)
            whole = np.concatenate([prompt_rows, own])
            members.append(member)
            response_row_start.append(row)
            positions.append(np.arange(prompt_tokens, prompt_tokens + len(own)))
            response_rows.append(np.concatenate([prompt_rows[-1:], own]))
            if not shared:
                stretches.append(_Stretch(whole, whole))
            elif len(own):
                stretches.append(_Stretch(own, whole))
            row += len(own)
    calls, inverse = _attention_calls(stretches, row)
    starts = np.concatenate([[0], np.cumsum([len(rows) for rows in response_rows])]).astype(np.int64)
    return PackedRows(
        members=tuple(members),
        prompt_member=tuple(prompt_member),
        prompt_start=tuple(prompt_start),
        positions_N=np.concatenate(positions).astype(np.int64),
        response_rows_T=np.concatenate(response_rows).astype(np.int64),
        response_start=starts,
        response_row_start=tuple(response_row_start),
        calls=calls,
        inverse_N=inverse,
    )


def group_by_size(sizes: Sequence[tuple[int, int]], waste: float = ATTENTION_WASTE) -> list[list[int]]:
    """Indices of (queries, keys) sizes grouped so that padding stays below `waste` of each group's area, largest first."""
    groups: list[list[int]] = []
    width = depth = filled = 0
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i][0], -sizes[i][1], i)):
        queries, keys = sizes[index]
        if groups:
            area = width * max(depth, keys) * (len(groups[-1]) + 1)
            if area - filled - queries * keys <= waste * area:
                groups[-1].append(index)
                depth, filled = max(depth, keys), filled + queries * keys
                continue
        groups.append([index])
        width, depth, filled = queries, keys, queries * keys
    return groups


def _attention_calls(stretches: Sequence[_Stretch], rows: int) -> tuple[tuple[AttentionCall, ...], np.ndarray]:
    """Padded calls over all stretches, and where each row's output lies in them."""
    calls: list[AttentionCall] = []
    inverse = np.full(rows, -1, dtype=np.int64)
    offset = 0
    for plain in (True, False):
        chosen = [stretch for stretch in stretches if stretch.plain == plain]
        for group in group_by_size([(len(stretch.queries), len(stretch.keys)) for stretch in chosen]):
            members = [chosen[index] for index in group]
            query_rows_BQ = _padded([stretch.queries for stretch in members])
            key_rows_BK = query_rows_BQ if plain else _padded([stretch.keys for stretch in members])
            width = query_rows_BQ.shape[1]
            for line, stretch in enumerate(members):
                inverse[stretch.queries] = offset + line * width + np.arange(len(stretch.queries))
            mask_BQK = None if plain else _sees(members, width, key_rows_BK.shape[1])
            calls.append(AttentionCall(query_rows_BQ, key_rows_BK, mask_BQK))
            offset += query_rows_BQ.size
    return tuple(calls), inverse


def _padded(rows: Sequence[np.ndarray]) -> np.ndarray:
    padded = np.zeros((len(rows), max(len(line) for line in rows)), dtype=np.int64)
    for line, values in zip(padded, rows, strict=True):
        line[: len(values)] = values
    return padded


def _sees(stretches: Sequence[_Stretch], queries: int, keys: int) -> np.ndarray:
    """mask [B, Q, K]; a padding query sees all keys of its line, so that no softmax is empty."""
    key_count_B11 = np.array([len(stretch.keys) for stretch in stretches])[:, None, None]
    query_count_B11 = np.array([len(stretch.queries) for stretch in stretches])[:, None, None]
    key_1K = np.arange(keys)[None, None]
    last_seen_BQ1 = key_count_B11 - query_count_B11 + np.arange(queries)[None, :, None]
    return (key_1K <= last_seen_BQ1) & (key_1K < key_count_B11)

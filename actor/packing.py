"""How the sequences of a micro-batch become rows: which row, which attention call (pure, no torch).

Neighbours: `actor.balance` says which sequences form a micro-batch, `actor.megatron.batch` turns each `PackedRows` into
tensors.
Invariants: every row is a query of one attention call on one context-parallel rank; a prompt's rows come once for all samples
that share it; all context-parallel ranks run equally many rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actor.balance import Lengths, Unit

# Padding allowed inside one attention call, as a share of queries x keys. Less padding means more and smaller calls; 128
# responses of 17-52 tokens make three to five calls at this value.
ATTENTION_WASTE = 0.2
# Attention kernels work in blocks of this many rows: 192 cost less than 185, which leave the last block half empty and unaligned.
ATTENTION_BLOCK = 16


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """One attention call over B stretches of rows, right-padded with row 0.

    query_rows_BQ: row of each query, by number among the rank's own rows; key_rows_BK: row of each key, by number among the
    rows of all context-parallel ranks, rank after rank; mask_BQK: which keys a query sees, None where queries and keys are the
    same rows and plain causal order says it (padding on the right then reaches no real row).
    """

    query_rows_BQ: np.ndarray
    key_rows_BK: np.ndarray
    mask_BQK: np.ndarray | None


@dataclass(frozen=True, slots=True)
class Stretch:
    """Rows that attend together: each query sees the keys up to itself, the last query sees all."""

    queries: np.ndarray
    keys: np.ndarray

    @property
    def plain(self) -> bool:
        return len(self.queries) == len(self.keys)


@dataclass(frozen=True, slots=True)
class PackedRows:
    """One micro-batch of N rows with T response tokens of B sequences.

    members: sequence index of each of the B sequences; prompt_member, prompt_start: for each distinct prompt, a sequence
    that carries it and its first row; positions_N: position of the row in its sequence; response_rows_T: the row whose
    output predicts the response token; response_start: offsets [B + 1] of the sequences in T; response_row_start: first own
    row of each sequence; stretches: what attends to what, every row a query once. Rows after the last sequence fill up to the
    multiple that was asked for: a stretch of their own, which nothing reads.
    """

    members: tuple[int, ...]
    prompt_member: tuple[int, ...]
    prompt_start: tuple[int, ...]
    positions_N: np.ndarray
    response_rows_T: np.ndarray
    response_start: np.ndarray
    response_row_start: tuple[int, ...]
    stretches: tuple[Stretch, ...]

    @property
    def rows(self) -> int:
        return len(self.positions_N)


@dataclass(frozen=True, slots=True)
class RankRows:
    """The n of N rows that one context-parallel rank runs.

    rows_n: packed row of each; calls: attention calls, in which every own row is a query once; inverse_n: where a row's output
    lies in the calls' concatenated, flattened outputs; head_rows_K: own rows whose output predicts response token head_tokens_K
    (index in T), filled up with repetitions to the same K on every rank; order_T: where each response token lies among the K
    of all ranks, rank after rank.
    """

    rows_n: np.ndarray
    calls: tuple[AttentionCall, ...]
    inverse_n: np.ndarray
    head_rows_K: np.ndarray
    head_tokens_K: np.ndarray
    order_T: np.ndarray


def lay_out(units: Sequence[Unit], lengths: Sequence[Lengths], multiple: int = 1) -> PackedRows:
    """Rows of one micro-batch: unit after unit, each prompt followed by the responses that share it; N is a multiple of
    `multiple`."""
    members: list[int] = []
    prompt_member: list[int] = []
    prompt_start: list[int] = []
    response_row_start: list[int] = []
    positions: list[np.ndarray] = []
    response_rows: list[np.ndarray] = []
    stretches: list[Stretch] = []
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
            stretches.append(Stretch(prompt_rows, prompt_rows))
        for member in unit.members:
            own = np.arange(row, row + lengths[member].response_tokens - 1)
            whole = np.concatenate([prompt_rows, own])
            members.append(member)
            response_row_start.append(row)
            positions.append(np.arange(prompt_tokens, prompt_tokens + len(own)))
            response_rows.append(np.concatenate([prompt_rows[-1:], own]))
            if not shared:
                stretches.append(Stretch(whole, whole))
            elif len(own):
                stretches.append(Stretch(own, whole))
            row += len(own)
    if filling := -row % multiple:
        rest = np.arange(row, row + filling)
        positions.append(np.arange(filling))
        stretches.append(Stretch(rest, rest))
    starts = np.concatenate([[0], np.cumsum([len(rows) for rows in response_rows])]).astype(np.int64)
    return PackedRows(
        members=tuple(members),
        prompt_member=tuple(prompt_member),
        prompt_start=tuple(prompt_start),
        positions_N=np.concatenate(positions).astype(np.int64),
        response_rows_T=np.concatenate(response_rows).astype(np.int64),
        response_start=starts,
        response_row_start=tuple(response_row_start),
        stretches=tuple(stretches),
    )


def context_rows(rows: int, ranks: int) -> list[np.ndarray]:
    """Which of `rows` rows each context-parallel rank runs: of 2 x ranks equal pieces the r-th from both ends, so that early
    rows, which attend to little, and late ones, which attend to much, are shared out evenly (the "zigzag" of Megatron-LM and
    Llama 3). Raises ValueError when the rows do not divide."""
    if ranks == 1:
        return [np.arange(rows)]
    if rows % (2 * ranks):
        raise ValueError(f"{rows} rows do not divide into 2 x {ranks} pieces; lay them out with that multiple")
    pieces = np.arange(rows).reshape(2 * ranks, -1)
    return [np.concatenate([pieces[rank], pieces[2 * ranks - 1 - rank]]) for rank in range(ranks)]


def rank_rows(packed: PackedRows, rank: int = 0, ranks: int = 1) -> RankRows:
    """What context-parallel rank `rank` of `ranks` runs of `packed`. Raises ValueError as `context_rows` does."""
    shares = context_rows(packed.rows, ranks)
    mine = shares[rank]
    gathered_N = np.empty(packed.rows, dtype=np.int64)  # packed row -> place among the rows of all ranks
    gathered_N[np.concatenate(shares)] = np.arange(packed.rows)
    own_N = np.full(packed.rows, -1, dtype=np.int64)  # packed row -> number among the own
    own_N[mine] = np.arange(len(mine))
    pieces = [piece for stretch in packed.stretches for piece in _owned(stretch, own_N >= 0)]
    calls, inverse_n = _attention_calls(pieces, own_N, gathered_N, len(mine))
    owner_N = np.empty(packed.rows, dtype=np.int64)
    for number, share in enumerate(shares):
        owner_N[share] = number
    owner_T = owner_N[packed.response_rows_T]
    tokens = [np.flatnonzero(owner_T == number) for number in range(ranks)]
    width = max(len(found) for found in tokens)
    order_T = np.empty(len(owner_T), dtype=np.int64)
    for number, found in enumerate(tokens):
        order_T[found] = number * width + np.arange(len(found))
    head_rows_K, head_tokens_K = np.zeros(width, dtype=np.int64), np.zeros(width, dtype=np.int64)
    head_rows_K[: len(tokens[rank])] = own_N[packed.response_rows_T[tokens[rank]]]
    head_tokens_K[: len(tokens[rank])] = tokens[rank]
    return RankRows(mine, calls, inverse_n, head_rows_K, head_tokens_K, order_T)


def _owned(stretch: Stretch, owned_N: np.ndarray) -> list[Stretch]:
    """The parts of a stretch whose queries are owned: each run of them, with the keys that its last query sees."""
    held = owned_N[stretch.queries]
    if held.all():
        return [stretch]
    edges = np.flatnonzero(np.diff(np.concatenate([[False], held, [False]]).astype(np.int8)))
    before = len(stretch.keys) - len(stretch.queries)
    return [
        Stretch(stretch.queries[begin:end], stretch.keys[: before + end])
        for begin, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    ]


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


def _attention_calls(
    stretches: Sequence[Stretch], own_N: np.ndarray, gathered_N: np.ndarray, rows: int
) -> tuple[tuple[AttentionCall, ...], np.ndarray]:
    """Padded calls over stretches whose queries are among the `rows` own rows, and where each own row's output lies in them."""
    calls: list[AttentionCall] = []
    inverse_n = np.full(rows, -1, dtype=np.int64)
    offset = 0
    for plain in (True, False):
        chosen = [stretch for stretch in stretches if stretch.plain == plain]
        for group in group_by_size([(len(stretch.queries), len(stretch.keys)) for stretch in chosen]):
            members = [chosen[index] for index in group]
            query_rows_BQ = _padded([own_N[stretch.queries] for stretch in members])
            key_rows_BK = _padded([gathered_N[stretch.keys] for stretch in members])
            width = query_rows_BQ.shape[1]
            for line, stretch in enumerate(members):
                inverse_n[own_N[stretch.queries]] = offset + line * width + np.arange(len(stretch.queries))
            mask_BQK = None if plain else _sees(members, width, key_rows_BK.shape[1])
            calls.append(AttentionCall(query_rows_BQ, key_rows_BK, mask_BQK))
            offset += query_rows_BQ.size
    return tuple(calls), inverse_n


def _padded(rows: Sequence[np.ndarray]) -> np.ndarray:
    padded = np.zeros((len(rows), _whole_blocks(max(len(line) for line in rows))), dtype=np.int64)
    for line, values in zip(padded, rows, strict=True):
        line[: len(values)] = values
    return padded


def _whole_blocks(rows: int) -> int:
    """`rows` with the last block filled up where at least half of it is used; below, the padding would cost more than it saves."""
    missing = -rows % ATTENTION_BLOCK
    return rows + missing if missing <= ATTENTION_BLOCK // 2 else rows


def _sees(stretches: Sequence[Stretch], queries: int, keys: int) -> np.ndarray:
    """mask [B, Q, K]; a padding query sees all keys of its line, so that no softmax is empty."""
    key_count_B11 = np.array([len(stretch.keys) for stretch in stretches])[:, None, None]
    query_count_B11 = np.array([len(stretch.queries) for stretch in stretches])[:, None, None]
    key_1K = np.arange(keys)[None, None]
    last_seen_BQ1 = key_count_B11 - query_count_B11 + np.arange(queries)[None, :, None]
    return (key_1K <= last_seen_BQ1) & (key_1K < key_count_B11)

"""Who computes which sequence: units that are never cut, data-parallel ranks, micro-batches, minibatches (pure, no torch).

Neighbours: `actor.planning` asks, `actor.packing` lays the rows of each micro-batch out.
Invariants: every sequence is placed exactly once; samples of one question share the rows of their prompt where that ends a
step sooner (causal attention makes a prompt's hidden states independent of what follows, so sharing changes no number beyond
rounding); a micro-batch holds at most `budget` rows; the same input gives the same plan on every rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

# Groups are even enough when none is further from the mean than this share of it: less than the noise in a step's time.
EVEN = 1e-3
# A swap must bring two groups nearer by at least this share of their difference, and this many of the best are tried.
SWAP_GAIN = 0.05
SWAPS_TRIED = 8
# Above this ratio of dearest to mean rank, prompts are also tried on several ranks. Their rows then count twice, so that below
# it there is next to nothing to win.
UNEVEN = 1.02


class PackingError(ValueError):
    """A batch that cannot be packed; the message names the sequence and the limit."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """What packing needs to know of one sequence: tokens of prompt and response, and which prompt it is (equal prompts of
    equal audio carry equal `prompt`)."""

    prompt: int
    prompt_tokens: int
    response_tokens: int

    @property
    def own_rows(self) -> int:
        """Rows beside the prompt's: the last response token predicts nothing."""
        return self.response_tokens - 1


@dataclass(frozen=True, slots=True)
class Unit:
    """One prompt with some of its responses, all in one micro-batch. members: sequence indices; rows: packed rows it takes
    (the prompt once, each response without its last token); pairs: (query, key) pairs of its causal attention; responses:
    response tokens, each of which runs the head."""

    members: tuple[int, ...]
    rows: int
    pairs: int = 0
    responses: int = 0


@dataclass(frozen=True, slots=True)
class Cost:
    """What a unit costs in time beside its rows, in rows: an attention pair, a response token. The default: rows alone."""

    pair: float = 0.0
    response: float = 0.0

    @classmethod
    def of_decoder(cls, *, layers: int, hidden: int, attention: int, key_value: int, ffn: int, vocabulary: int) -> Cost:
        """From multiply-adds of the forward pass. attention, key_value: heads x head size of queries, of keys; vocabulary: 1
        for a value head.

        A row takes the projections and the gated MLP of every layer; a pair a product with a key and one with a value in every
        layer; a response token one row of the head. The backward pass doubles all three, so it changes no ratio.
        """
        row = layers * hidden * (2 * attention + 2 * key_value + 3 * ffn)
        return cls(pair=layers * 2 * attention / row, response=hidden * vocabulary / row)

    def __call__(self, unit: Unit) -> float:
        return unit.rows + self.pair * unit.pairs + self.response * unit.responses


ROWS = Cost()


def prompt_ids(keys: Sequence[object]) -> list[int]:
    """Number equal (hashable) prompt keys alike, in order of first appearance."""
    seen: dict[object, int] = {}
    return [seen.setdefault(key, len(seen)) for key in keys]


def make_units(lengths: Sequence[Lengths], budget: int, share: bool = True) -> list[Unit]:
    """Sequences → units of at most `budget` rows, by first member. share=False: every sequence keeps a prompt of its own.

    Raises PackingError for an empty prompt or response and for a sequence that alone exceeds the budget.
    """
    groups: dict[int, list[int]] = {}
    for index, item in enumerate(lengths):
        if item.prompt_tokens < 1 or item.response_tokens < 1:
            raise PackingError(
                f"sequence {index} has {item.prompt_tokens} prompt and {item.response_tokens} response tokens; both need at least 1"
            )
        rows = item.prompt_tokens + item.own_rows
        if rows > budget:
            raise PackingError(
                f"sequence {index} takes {rows} rows, more than micro_batch_tokens={budget}; "
                "raise micro_batch_tokens or shorten the sequence"
            )
        groups.setdefault(item.prompt if share else index, []).append(index)
    units = [unit for members in groups.values() for unit in _cut(members, lengths, budget)]
    return sorted(units, key=lambda unit: unit.members)


def _cut(members: Sequence[int], lengths: Sequence[Lengths], limit: int) -> list[Unit]:
    """Sequences of one prompt → the fewest units of at most `limit` rows that first-fit-decreasing finds; a sequence over the
    limit stays alone."""
    room = limit - lengths[members[0]].prompt_tokens
    cut: list[tuple[list[int], int]] = []
    for member in sorted(members, key=lambda member: (-lengths[member].own_rows, member)):
        own = lengths[member].own_rows
        slot = next((i for i, (_, rows) in enumerate(cut) if rows + own <= room), None)
        if slot is None:
            cut.append(([member], own))
        else:
            cut[slot] = ([*cut[slot][0], member], cut[slot][1] + own)
    return [_unit(sorted(chosen), lengths) for chosen, _ in cut]


def _unit(members: Sequence[int], lengths: Sequence[Lengths]) -> Unit:
    prompt = lengths[members[0]].prompt_tokens
    own = [lengths[member].own_rows for member in members]
    pairs = prompt * (prompt + 1) // 2 + sum(rows * prompt + rows * (rows + 1) // 2 for rows in own)
    return Unit(tuple(members), prompt + sum(own), pairs, sum(lengths[member].response_tokens for member in members))


def plan(
    units: Sequence[Unit], lengths: Sequence[Lengths], ranks: int, budget: int, cost: Cost = ROWS
) -> list[list[list[Unit]]]:
    """For each rank its micro-batches of at most `budget` rows, the dearest first; a rank without a unit gets none.

    All ranks get the same number of micro-batches (fewer where a rank has fewer units): the smallest that holds the batch with
    ranks level to within a unit. Units are then swapped until ranks, and the micro-batches of each, are as even as that makes
    them. Where whole prompts leave ranks uneven, prompts are cut into smaller units if the dearest rank gets cheaper by it,
    the repeated prompt rows included.
    """
    best = _level(units, ranks, budget, cost)
    shared = any(len(unit.members) > 1 for unit in units)
    if ranks > 1 and shared:
        limit = min(budget, -(-sum(unit.rows for unit in units) // ranks))
        while limit and max(best.costs) > UNEVEN * sum(best.costs) / ranks:
            smaller = [part for unit in units for part in _cut(unit.members, lengths, limit)]
            best = min(best, _level(smaller, ranks, budget, cost), key=lambda found: (max(found.costs), found.count))
            limit //= 2
    shares = best.shares
    if shared:
        joined = [_joined(share, lengths, budget) for share in shares]
        fits = [len(first_fit_decreasing(share, budget, cost)) <= best.count for share in joined]
        shares = [new if fit else old for old, new, fit in zip(shares, joined, fits, strict=True)]
    return [_micro_batches(share, best.count, budget, cost) for share in shares]


@dataclass(frozen=True, slots=True)
class _Shares:
    """Units of each rank, which fit `count` micro-batches, and what they cost."""

    shares: list[list[Unit]]
    count: int
    costs: list[float]


def _level(units: Sequence[Unit], ranks: int, budget: int, cost: Cost) -> _Shares:
    """Units over ranks, with the smallest number of micro-batches that leaves ranks within one unit of each other."""
    largest = max(map(cost, units), default=0.0)
    count = max(1, -(-sum(unit.rows for unit in units) // (ranks * budget)))
    while True:
        shares, left = _place(units, ranks, count, budget, cost)
        costs = [sum(map(cost, share)) for share in shares]
        if not left and max(costs) - min(costs) <= largest:
            break
        count += max(1, -(-left // (ranks * budget)))
    shares = _evened(shares, cost, lambda share: len(first_fit_decreasing(share, budget, cost)) <= count)
    return _Shares(shares, count, [sum(map(cost, share)) for share in shares])


def _place(units: Sequence[Unit], groups: int, count: int, budget: int, cost: Cost) -> tuple[list[list[Unit]], int]:
    """Dearest unit first to the cheapest group with room for it in one of its `count` micro-batches (there the first that
    takes it); also the rows that found no room."""
    room = np.full((groups, count), budget, dtype=np.int64)
    costs = np.zeros(groups)
    placed: list[list[Unit]] = [[] for _ in range(groups)]
    left = 0
    for unit in _dearest_first(units, cost):
        takes = room >= unit.rows
        willing = takes.any(1)
        if not willing.any():
            left += unit.rows
            continue
        group = int(np.where(willing, costs, np.inf).argmin())
        room[group, takes[group].argmax()] -= unit.rows
        costs[group] += cost(unit)
        placed[group].append(unit)
    return placed, left


def first_fit_decreasing(units: Sequence[Unit], budget: int, cost: Cost = ROWS) -> list[list[Unit]]:
    """Micro-batches of at most `budget` rows: dearest unit first, each into the first micro-batch with room."""
    bins: list[list[Unit]] = []
    room = np.full(len(units), budget, dtype=np.int64)
    for unit in _dearest_first(units, cost):
        slot = int((room >= unit.rows).argmax())
        room[slot] -= unit.rows
        if slot == len(bins):
            bins.append([])
        bins[slot].append(unit)
    return bins


def _dearest_first(units: Sequence[Unit], cost: Cost) -> list[Unit]:
    return sorted(units, key=lambda unit: (-cost(unit), unit.members))


def _joined(units: Sequence[Unit], lengths: Sequence[Lengths], budget: int) -> list[Unit]:
    """Units of one prompt as few units again."""
    groups: dict[int, list[int]] = {}
    for unit in units:
        groups.setdefault(lengths[unit.members[0]].prompt, []).extend(unit.members)
    return [unit for members in groups.values() for unit in _cut(members, lengths, budget)]


def _micro_batches(units: Sequence[Unit], count: int, budget: int, cost: Cost) -> list[list[Unit]]:
    """One rank's units in `count` micro-batches (fewer where there are fewer units), the dearest micro-batch first."""
    count = min(count, len(units))
    bins, left = _place(units, count, 1, budget, cost)
    if left:
        bins = first_fit_decreasing(units, budget, cost)
        bins += [[] for _ in range(count - len(bins))]
    bins = _evened(bins, cost, lambda bin_: sum(unit.rows for unit in bin_) <= budget)
    whole = [_dearest_first(bin_, cost) for bin_ in bins if bin_]
    return sorted(whole, key=lambda bin_: (-sum(map(cost, bin_)), bin_[0].members))


def _evened(groups: Sequence[list[Unit]], cost: Cost, fits: Callable[[Sequence[Unit]], bool]) -> list[list[Unit]]:
    """Units moved and swapped between two groups at a time, while that brings the dearest or the cheapest nearer to another."""
    groups = list(groups)
    costs = [sum(map(cost, group)) for group in groups]
    mean = sum(costs) / max(1, len(groups))
    for _ in range(4 * len(groups)):
        order = sorted(range(len(groups)), key=lambda i: (costs[i], i))
        if max(costs[order[-1]] - mean, mean - costs[order[0]]) <= EVEN * mean:
            break
        pairs = [(order[-1], i) for i in order[:-1]] + [(i, order[0]) for i in reversed(order[1:-1])]
        for rich, poor in pairs:
            swapped = _swapped(groups[rich], groups[poor], cost, fits)
            if swapped is not None:
                groups[rich], groups[poor] = swapped
                costs[rich], costs[poor] = (sum(map(cost, group)) for group in swapped)
                break
        else:
            break
    return groups


def _swapped(
    rich: list[Unit], poor: list[Unit], cost: Cost, fits: Callable[[Sequence[Unit]], bool]
) -> tuple[list[Unit], list[Unit]] | None:
    """Both groups after the swap (or the move to `poor`) that brings them nearest, or None where none helps and fits."""
    given, taken = [cost(unit) for unit in rich], [cost(unit) for unit in poor]
    gap = sum(given) - sum(taken)
    # The last column takes nothing back.
    change_RP = np.subtract.outer(np.array(given), np.array([*taken, 0.0]))
    useful = np.flatnonzero(np.abs(change_RP - gap / 2) < (1 - SWAP_GAIN) * gap / 2)
    nearest = useful[np.argsort(np.abs(change_RP.flat[useful] - gap / 2), kind="stable")][:SWAPS_TRIED]
    for i, j in zip(*np.unravel_index(nearest, change_RP.shape), strict=True):
        new_rich = [*rich[:i], *rich[i + 1 :], *poor[j : j + 1]]
        new_poor = [*poor[:j], *poor[j + 1 :], rich[i]]
        if fits(new_rich) and fits(new_poor):
            return new_rich, new_poor
    return None


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

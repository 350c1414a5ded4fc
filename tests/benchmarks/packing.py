"""How full micro-batches are and how level data-parallel ranks: ours beside verl's and plain padding, on lognormal lengths.

    python tests/benchmarks/packing.py [--sequences 512] [--median 2500] [--sigma 0.8] [--longest 10240] [--budget 10240]
        [--ranks 32] [--seeds 5]

A sequence of L tokens takes L rows. `efficiency` = tokens / rows computed, padding to the budget included (micro-batches x budget): what
a step pays when a micro-batch costs its whole budget, packed as one data-parallel rank packs the batch. `filled_N` is the same over N
ranks: there a rank has few micro-batches, so whole ones are no longer full, but rows that do not exist cost nothing with packed rows
(THD), and what counts is the busiest rank: `imbalance_N` = its tokens / the mean, and `work_N` = the same of estimated work, attention
included (7 B decoder). `computed` = tokens / rows computed when only padding inside a micro-batch counts.

Rows: ours (`actor.balance.plan`); verl (its balanced partitions over ranks by estimated work, then `rearrange_micro_batches`, both
Karmarkar-Karp); `longest` (sequences sorted by length, as many a micro-batch as fit when padded to its longest); `max` (padded to
the longest of all). Medians over seeds; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from tensordict import TensorDict
from verl.utils.seqlen_balancing import calculate_workload, get_seqlen_balanced_partitions, rearrange_micro_batches

from actor.balance import Cost, Lengths, make_units, plan

SEVEN_B = Cost.of_decoder(layers=28, hidden=3584, attention=3584, key_value=512, ffn=18944, vocabulary=152064)

# [rank][micro-batch] -> lengths of its sequences
Packed = list[list[list[int]]]


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one way to pack one batch over some ranks. rows: computed, padding inside micro-batches included."""

    filled: float
    computed: float
    imbalance: float
    work: float
    most: int
    least: int
    seconds: float


def ours(lengths: Sequence[int], ranks: int, budget: int) -> Packed:
    """Every sequence with a prompt of its own: a quarter of it."""
    sizes = [Lengths(i, n // 4, n - n // 4 + 1) for i, n in enumerate(lengths)]
    planned = plan(make_units(sizes, budget), sizes, ranks, budget, SEVEN_B)
    return [[[lengths[m] for unit in bin_ for m in unit.members] for bin_ in share] for share in planned]


def verl(lengths: Sequence[int], ranks: int, budget: int) -> Packed:
    """Equal numbers of sequences a rank, as its trainer asks for, then its dynamic batches."""
    work = calculate_workload(torch.tensor(lengths)).tolist()
    parts = get_seqlen_balanced_partitions(work, ranks, equal_size=True) if ranks > 1 else [range(len(lengths))]
    packed = []
    for part in parts:
        mine = torch.tensor([lengths[i] for i in part])
        mask = (torch.arange(int(mine.max()))[None] < mine[:, None]).long()
        batches, _ = rearrange_micro_batches(TensorDict({"input_ids": mask, "attention_mask": mask}, len(mine)), budget)
        packed.append([batch["attention_mask"].sum(1).tolist() for batch in batches])
    return packed


def padded_to_longest(lengths: Sequence[int], ranks: int, budget: int) -> Packed:
    """Sorted by length, dealt out to ranks in turn, as many as fit when padded."""
    packed: Packed = []
    for rank in range(ranks):
        batches: list[list[int]] = []
        for length in sorted(lengths, reverse=True)[rank::ranks]:
            if batches and batches[-1][0] * (len(batches[-1]) + 1) <= budget:
                batches[-1].append(length)
            else:
                batches.append([length])
        packed.append(batches)
    return packed


def padded_to_max(lengths: Sequence[int], ranks: int, budget: int) -> Packed:
    """In the order they came, each as long as the longest of all."""
    count = max(1, budget // max(lengths))
    return [
        [list(lengths[rank::ranks][i : i + count]) for i in range(0, len(lengths[rank::ranks]), count)]
        for rank in range(ranks)
    ]


PADDING = {
    "longest": lambda batch, longest: len(batch) * max(batch),
    "max": lambda batch, longest: len(batch) * longest,
}
METHODS = {"ours": ours, "verl": verl, "longest": padded_to_longest, "max": padded_to_max}


def measure(name: str, lengths: Sequence[int], ranks: int, budget: int) -> Figures:
    """Raises AssertionError when a sequence is lost or cut."""
    began = time.perf_counter()
    packed = METHODS[name](lengths, ranks, budget)
    seconds = time.perf_counter() - began
    assert sorted(n for share in packed for batch in share for n in batch) == sorted(lengths), name
    longest = max(lengths)
    rows_of = PADDING.get(name, lambda batch, longest: sum(batch))
    rows = np.array([sum(rows_of(batch, longest) for batch in share) for share in packed])
    work = np.array([sum(work_of(n) for batch in share for n in batch) for share in packed])
    micro_batches = [len(share) for share in packed]
    tokens = sum(lengths)
    return Figures(
        filled=tokens / (sum(micro_batches) * budget),
        computed=tokens / rows.sum(),
        imbalance=float(rows.max() / rows.mean()),
        work=float(work.max() / work.mean()),
        most=max(sum(batch) for share in packed for batch in share),
        least=min(micro_batches),
        seconds=seconds,
    )


def work_of(length: int) -> float:
    return length + SEVEN_B.pair * length * (length + 1) / 2


def median(figures: Sequence[Figures], name: str) -> float:
    return statistics.median(getattr(one, name) for one in figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=512)
    parser.add_argument("--median", type=float, default=2500)
    parser.add_argument("--sigma", type=float, default=0.8)
    parser.add_argument("--longest", type=int, default=10240)
    parser.add_argument("--budget", type=int, default=10240)
    parser.add_argument("--ranks", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=5)
    asked = parser.parse_args()
    table = Table(
        title=f"{asked.sequences} lengths, median {asked.median:g}, sigma {asked.sigma}, at most {asked.longest}"
    )
    columns = ("method", "ranks", "filled", "computed", "imbalance", "work", "largest", "micro-batches", "ms")
    for column in columns:
        table.add_column(column, justify="left" if column == "method" else "right")
    found: dict[tuple[str, int], list[Figures]] = {}
    for seed in range(asked.seeds):
        drawn = np.random.default_rng(seed).lognormal(np.log(asked.median), asked.sigma, asked.sequences)
        lengths = np.clip(drawn.round(), 4, asked.longest).astype(int).tolist()
        for name in METHODS:
            for ranks in (1, asked.ranks):
                found.setdefault((name, ranks), []).append(measure(name, lengths, ranks, asked.budget))
    for (name, ranks), figures in found.items():
        values = [median(figures, key) for key in ("filled", "computed", "imbalance", "work")]
        largest, least = max(one.most for one in figures), median(figures, "least")
        milliseconds = 1e3 * median(figures, "seconds")
        table.add_row(
            name, str(ranks), *(f"{value:.4f}" for value in values), str(largest), f"{least:g}", f"{milliseconds:.0f}"
        )
    Console(width=120).print(table)
    one, many, theirs = found["ours", 1], found["ours", asked.ranks], found["verl", asked.ranks]
    result = {
        "efficiency": median(one, "filled"),
        "efficiency_worst_seed": min(figure.filled for figure in one),
        f"filled_{asked.ranks}": median(many, "filled"),
        f"imbalance_{asked.ranks}": median(many, "imbalance"),
        f"imbalance_{asked.ranks}_worst_seed": max(figure.imbalance for figure in many),
        f"work_{asked.ranks}": median(many, "work"),
        "verl_efficiency": median(found["verl", 1], "filled"),
        f"verl_imbalance_{asked.ranks}": median(theirs, "imbalance"),
        f"verl_work_{asked.ranks}": median(theirs, "work"),
        "max_efficiency": median(found["max", 1], "computed"),
    }
    print(json.dumps({name: round(value, 4) for name, value in result.items()}))


if __name__ == "__main__":
    main()

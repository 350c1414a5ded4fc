"""Tokens per CPU-second of an SFT step and of a policy update (actor and critic): ours, plain transformers + torch, TRL's SFT.

    python tests/benchmarks/trainer.py [--sequences 32] [--length 193] [--median 160] [--sigma 0.8] [--longest 640] [--rounds 7]

`padded`: all sequences as long as each other, where packing gains nothing: what is left is each trainer's own overhead.
`packed`: lognormal lengths, as reasoning has them; plain torch pads each micro-batch to its longest, ours packs. `shared`: the same
with eight samples a question, whose prompt ours runs once (policy updates only). Same decoder, weights, sequences, optimizer, float32,
one thread; every trainer has a process of its own and they take steps in turn; their losses must agree after each step. Tokens are
those of the sequences, padding left out. Medians over rounds; the last line is one JSON object, whose ratios are the worse of SFT and
policy update.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

HIDDEN_LAYERS, FFN, VOCABULARY = 5, 320, 600
SAMPLES = 8  # a question, in `shared`
WARM_UP = 2  # steps of each trainer that do not count
LOSS_TOLERANCE = 2e-3  # relative, after each step
START_S = 300.0


@dataclass
class Trainer:
    """One process. cpu_s: of each step that counts."""

    work: Any
    process: Any
    connection: Any
    cpu_s: list[float] = field(default_factory=list)

    def step(self) -> float:
        """Its loss. Raises RuntimeError when the process died or does not answer."""
        self.connection.send(True)
        if not self.connection.poll(START_S):
            raise RuntimeError(f"{self.work.side} {self.work.step} did not finish a step in {START_S:.0f} s")
        try:
            seconds, loss = self.connection.recv()
        except EOFError as error:
            raise RuntimeError(f"{self.work.side} {self.work.step} died; its traceback is above") from error
        self.cpu_s.append(seconds)
        return loss


def lognormal(asked: argparse.Namespace, count: int) -> list[int]:
    drawn = np.random.default_rng(asked.seed).lognormal(math.log(asked.median), asked.sigma, count)
    return np.clip(drawn.round(), 16, asked.longest).astype(int).tolist()


def batch(case: Any, lengths: Sequence[int], samples: int, seed: int) -> tuple[Any, ...]:
    """Text sequences; a quarter of each is its prompt, with `samples` a quarter of the first."""
    from actor.messages import Experience
    from actor.testing import special_ids_of

    rng = np.random.default_rng(seed)
    words = (max(special_ids_of(case)) + 1, VOCABULARY)
    made = []
    for number, length in enumerate(lengths):
        if number % samples == 0:
            prompt = tuple(rng.integers(*words, length // 4).tolist())
        response = tuple(rng.integers(*words, max(8, length - len(prompt))).tolist())
        reward = float(rng.integers(0, 2))
        logprobs = (-math.log(VOCABULARY),) * len(response)
        made.append(Experience(f"s{number}", prompt, response, logprobs, reward, (), number // samples))
    return tuple(made)


def start(work: Any) -> Trainer:
    from trainer_sides import serve

    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=serve, args=(work, there), daemon=True)
    process.start()
    there.close()
    return Trainer(work, process, here)


def agree(losses: dict[str, float], title: str) -> None:
    """Raises AssertionError when the trainers of a workload do not learn the same."""
    ours = losses["ours"]
    for side, loss in losses.items():
        assert abs(loss - ours) <= LOSS_TOLERANCE * max(abs(ours), 0.05), f"{title}: losses differ: {losses}, {side}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=32, help="of a batch")
    parser.add_argument("--length", type=int, default=193, help="of every sequence in `padded`")
    parser.add_argument("--median", type=float, default=160)
    parser.add_argument("--sigma", type=float, default=0.8)
    parser.add_argument("--longest", type=int, default=640)
    parser.add_argument("--rows", type=int, default=8192, help="of a packed micro-batch")
    parser.add_argument("--at-once", type=int, default=4, help="sequences of a padded micro-batch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    from trainer_sides import Work

    from actor.testing import make_case, trainer_spec
    from actor.worker import worker_environment

    with tempfile.TemporaryDirectory(prefix="trainer_benchmark") as folder:
        case = make_case(Path(folder), layers=HIDDEN_LAYERS, ffn=FFN, vocab_size=VOCABULARY)
        os.environ |= worker_environment(trainer_spec(case))  # read by the allocator of each process as it starts
        lengths = {"padded": [asked.length] * asked.sequences, "packed": lognormal(asked, asked.sequences)}
        batches = {name: batch(case, found, 1, asked.seed) for name, found in lengths.items()}
        batches["shared"] = batch(case, lengths["packed"], SAMPLES, asked.seed)
        cases = [
            (name, step, side)
            for name in batches
            for step in ("sft", "ppo")
            for side in ("ours", "torch", "trl")
            if (side != "trl" or step == "sft") and (name != "shared" or step == "ppo")
        ]
        trainers: dict[tuple[str, str, str], Trainer] = {}
        for name, step, side in track(cases, "starting", console=Console(stderr=True)):
            trainers[name, step, side] = start(Work(side, step, case, batches[name], asked.rows, asked.at_once))
        measure(trainers, asked.rounds)
        tokens = {
            name: sum(len(item.prompt_ids) + len(item.response_ids) for item in found)
            for name, found in batches.items()
        }
    report(trainers, tokens, asked)


def measure(trainers: dict[tuple[str, str, str], Trainer], rounds: int) -> None:
    """Steps in turn; then every process ends."""
    for _ in track(range(rounds + WARM_UP), "steps", console=Console(stderr=True)):
        losses: dict[tuple[str, str], dict[str, float]] = {}
        for (name, step, side), trainer in trainers.items():
            losses.setdefault((name, step), {})[side] = trainer.step()
        for (name, step), found in losses.items():
            agree(found, f"{name} {step}")
    for trainer in trainers.values():
        trainer.connection.send(False)
    for trainer in trainers.values():
        trainer.process.join(START_S)


def report(trainers: dict[tuple[str, str, str], Trainer], tokens: dict[str, int], asked: argparse.Namespace) -> None:
    table = Table(
        title=f"{asked.sequences} sequences; padded: {asked.length} tokens each; packed: median {asked.median:g}, sigma {asked.sigma}, "
        f"at most {asked.longest}"
    )
    for column in ("lengths", "step", "trainer", "CPU ms", "tokens / CPU-s", "ours / this"):
        table.add_column(column, justify="right" if column not in {"lengths", "step", "trainer"} else "left")
    ratios: dict[tuple[str, str, str], float] = {}
    for (name, step, side), trainer in trainers.items():
        seconds = trainer.cpu_s[WARM_UP:]
        ours = trainers[name, step, "ours"].cpu_s[WARM_UP:]
        # Neighbours in a round meet the same machine.
        ratios[name, step, side] = statistics.median(theirs / mine for theirs, mine in zip(seconds, ours, strict=True))
        middle = statistics.median(seconds)
        cells = (f"{1e3 * middle:.0f}", f"{tokens[name] / middle:.0f}", f"{ratios[name, step, side]:.2f}")
        table.add_row(name, step, side, *cells)
    Console(width=120).print(table)
    result = {
        "padded_vs_torch": min(ratios["padded", step, "torch"] for step in ("sft", "ppo")),
        "packed_vs_torch": min(ratios["packed", step, "torch"] for step in ("sft", "ppo")),
        "padded_vs_trl": ratios["padded", "sft", "trl"],
    } | {f"{name}_{step}_vs_{side}": ratio for (name, step, side), ratio in ratios.items() if side != "ours"}
    sys.stdout.write(json.dumps({name: round(ratio, 3) for name, ratio in result.items()}) + "\n")


if __name__ == "__main__":
    main()

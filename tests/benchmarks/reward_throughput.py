"""What scoring costs here and elsewhere, side by side on the same answers, and what strings that hang cost.

    python tests/benchmarks/reward_throughput.py [--choice 20000] [--math 2000] [--rounds 5] [--workers 2] [--without verl,trl]

Sides: the bare functions in this process, math-verify alone, verl's reward workers and its serial reward manager, TRL's
`accuracy_reward`, and this service (Ray, killable sandboxes) without a cache, filling one, and answered from it. Every round
draws new answers, the same for every side, so that none remembers them from the round before; what functions remember in this
process is cleared before each side's turn, and each form of the service has processes of its own. Sides follow each other
within a round; figures are medians over rounds of the ratio within a round. CPU time is that of this process and all its
descendants (Ray's own processes, actors, scoring processes, Redis).

The last line is one JSON object: `choice_vs_bare_per_core`, `choice_vs_verl` (wall time, against the reward workers that every
trainer of verl 0.9 uses; `choice_vs_verl_serial`: against the older manager),
`math_vs_math_verify_per_core`, `agreement`, `hang_set_max_s`, `limit_s` and more.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

from redis_room import RedisRoom
from reward_answers import choice_samples, math_samples
from rich.console import Console
from rich.table import Table

from rewards import RewardService, RewardSpec, RewardTerm, Sample, Verdict
from rewards.functions.answer import answer
from rewards.functions.mathematics import math

HANG_SET = Path(__file__).with_name("hang_set.jsonl")
WARM_UP = 1000  # samples of each kind, from another seed: imports, first connections
console = Console(width=120)


@dataclass(slots=True)
class Side:
    """One way to score; `score` gives floats or None, in order. seconds: wall and CPU of each round."""

    name: str
    score: Callable[[Any], list[float | None]]
    prepare: Callable[[Sequence[Sample]], Any] | None = None  # outside the clock: what the caller has anyway
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    scores: list[float | None] = field(default_factory=list)


def main() -> None:
    options = _options()
    logging.getLogger("ray").setLevel(logging.ERROR)
    import ray

    with tempfile.TemporaryDirectory() as folder:
        ray.init(num_cpus=options.workers, include_dashboard=False, log_to_driver=False)
        figures = _measure(options, Path(folder))
        ray.shutdown()
    print(json.dumps({k: round(v, 5) if isinstance(v, float) else v for k, v in figures.items()}))


def _measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    with ExitStack() as stack:
        service = Services(options, _redis(folder, stack), stack)
        choice = [
            Side("bare function", lambda samples: [answer(sample) for sample in samples]),
            Side("service", service.without_cache),
            Side("service, cache for slow functions", service.as_in_runs),
            Side("service, filling the cache", service.cached),
            Side("service, from the cache", service.cached),
        ]
        if "verl" not in options.without:
            from verl_side import VerlSerial, VerlWorkers

            workers, serial = VerlWorkers(folder, options.workers), VerlSerial(folder)
            choice += [
                Side(f"verl, {options.workers} reward workers", workers.score, workers.prepare),
                Side("verl, serial reward manager", serial.score, serial.prepare),
            ]
        mathematics = [
            Side("bare function", lambda samples: [math(sample) for sample in samples]),
            Side("math-verify alone", _math_verify),
            Side("service", service.without_cache),
            Side("service, filling the cache", service.cached),
            Side("service, from the cache", service.cached),
        ]
        if "trl" not in options.without:
            mathematics.append(Side("TRL accuracy_reward", _trl))
        _rounds("multiple choice", choice, choice_samples, options.choice, options.rounds)
        _rounds("mathematics", mathematics, math_samples, options.math, options.rounds)
        return _figures(options, choice, mathematics) | _hang_set(service, options)


def _redis(folder: Path, stack: ExitStack) -> str:
    """The address of a server of this run's own."""
    (folder / "redis").mkdir()
    server = RedisRoom(folder / "redis")
    stack.callback(server.kill)
    return server.url


class Services:
    """This service without a cache, with one as in runs, and with one for every function; each with processes of its own, so
    that none remembers what another has scored. The answers' data set says which function scores them."""

    def __init__(self, options: argparse.Namespace, redis_url: str, stack: ExitStack) -> None:
        terms = (
            RewardTerm("answer", 1.0, "any", dataset="benchmark_choice"),
            RewardTerm("math", 1.0, "any", dataset="benchmark_math"),
        )
        spec = RewardSpec(terms, options.limit, 1024, options.workers)
        self._plain = RewardService(spec)
        self._as_in_runs = RewardService(spec, redis_url=redis_url)
        self._cached = RewardService(spec, redis_url=redis_url, cached_above_s=0.0)
        for service in (self._plain, self._as_in_runs, self._cached):
            stack.callback(service.shutdown)
            service.start()

    def without_cache(self, samples: Sequence[Sample]) -> list[float | None]:
        return [verdict.score for verdict in self._plain.score(samples)]

    def as_in_runs(self, samples: Sequence[Sample]) -> list[float | None]:
        return [verdict.score for verdict in self._as_in_runs.score(samples)]

    def cached(self, samples: Sequence[Sample]) -> list[float | None]:
        return [verdict.score for verdict in self._cached.score(samples)]

    def verdict(self, sample: Sample) -> Verdict:
        return self._plain.score([sample])[0]


def _math_verify(samples: Sequence[Sample]) -> list[float | None]:
    from math_verify import parse, verify

    return [float(verify(parse(sample.reference), parse(sample.reply))) for sample in samples]


def _trl(samples: Sequence[Sample]) -> list[float | None]:
    from trl.rewards import accuracy_reward

    completions = [[{"role": "assistant", "content": sample.reply}] for sample in samples]
    return accuracy_reward(completions, [sample.reference for sample in samples])


class Clock:
    """Wall time and CPU time of this process and its descendants since `start`."""

    def start(self) -> None:
        self._before = self._cpu()
        self._began = time.perf_counter()

    def stop(self) -> tuple[float, float]:
        wall = time.perf_counter() - self._began
        after = self._cpu()
        return wall, sum(value - self._before.get(pid, 0.0) for pid, value in after.items())

    @staticmethod
    def _cpu() -> dict[int, float]:
        """By process; the kernel's own clock of each, which counts nanoseconds where /proc counts hundredths."""
        found = {}
        for pid in [os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))]:
            try:
                found[pid] = time.clock_gettime((~pid << 3) | 2)
            except OSError:  # it has ended
                continue
        return found


def _rounds(
    title: str, sides: Sequence[Side], draw: Callable[[int, int], list[Sample]], count: int, rounds: int
) -> None:
    """Scores `rounds` sets of answers on every side and prints a table. The order of sides turns from round to round."""
    warm = draw(min(WARM_UP, count), 10_000)
    for side in sides:
        side.score(side.prepare(warm) if side.prepare else warm)
    clock = Clock()
    for number in range(rounds):
        samples = draw(count, 1 + number)
        gc.collect()
        gc.freeze()
        for side in _turned(sides, number):
            given = side.prepare(samples) if side.prepare else samples
            _forget()
            clock.start()
            side.scores = side.score(given)
            wall, cpu = clock.stop()
            side.wall.append(wall)
            side.cpu.append(cpu)
            gc.collect()
    _print_table(title, sides, count)


def _forget() -> None:
    """Sides in this process share what functions and sympy remember; none is to profit from another's turn."""
    from sympy.core.cache import clear_cache

    clear_cache()
    for name, module in list(sys.modules.items()):
        if name.startswith("rewards.functions"):
            for value in vars(module).values():
                getattr(value, "cache_clear", bool)()


def _turned(sides: Sequence[Side], number: int) -> list[Side]:
    """Another side first each round; from the cache stays behind filling it."""
    turn = number % len(sides)
    turned = [*sides[turn:], *sides[:turn]]
    warm = next((side for side in turned if side.name.endswith("from the cache")), None)
    if warm is not None:
        turned.remove(warm)
        turned.append(warm)
    return turned


def _print_table(title: str, sides: Sequence[Side], count: int) -> None:
    table = Table(title=f"{title}: {count:,} answers, medians of {len(sides[0].wall)} rounds")
    for column in ("side", "wall s", "CPU s", "µs wall each", "µs CPU each", "per core, bare = 1", "same scores"):
        table.add_column(column, justify="left" if column == "side" else "right")
    for side in sides:
        wall, cpu = statistics.median(side.wall), statistics.median(side.cpu)
        same = sum(a == b for a, b in zip(side.scores, sides[0].scores, strict=True)) / count
        table.add_row(
            side.name, f"{wall:.3f}", f"{cpu:.3f}", f"{wall / count * 1e6:.1f}", f"{cpu / count * 1e6:.1f}",
            f"{_ratio(sides[0].cpu, side.cpu):.2f}", f"{same:.2%}",
        )  # fmt: skip
    console.print(table)


def _ratio(reference: Sequence[float], side: Sequence[float]) -> float:
    """How many times as fast as the reference: median over rounds."""
    return statistics.median(a / b for a, b in zip(reference, side, strict=True))


def _figures(options: argparse.Namespace, choice: Sequence[Side], mathematics: Sequence[Side]) -> dict[str, Any]:
    by_choice, by_math = {side.name: side for side in choice}, {side.name: side for side in mathematics}
    bare, service = by_choice["bare function"], by_choice["service"]
    verify, scored = by_math["math-verify alone"], by_math["service"]
    answered = [(a, b) for a, b in zip(verify.scores, scored.scores, strict=True) if a is not None]
    figures: dict[str, Any] = {
        "choice": options.choice,
        "math": options.math,
        "rounds": options.rounds,
        "workers": options.workers,
        "choice_vs_bare_per_core": _ratio(bare.cpu, service.cpu),
        "choice_bare_us": statistics.median(bare.cpu) / options.choice * 1e6,
        "choice_service_us": statistics.median(service.cpu) / options.choice * 1e6,
        "choice_vs_bare_wall": _ratio(bare.wall, service.wall),
        "choice_cached_vs_bare_per_core": _ratio(bare.cpu, by_choice["service, from the cache"].cpu),
        "choice_same_as_bare": service.scores == bare.scores,
        "math_vs_math_verify_per_core": _ratio(verify.cpu, scored.cpu),
        "math_vs_bare_per_core": _ratio(by_math["bare function"].cpu, scored.cpu),
        "math_cached_vs_math_verify_per_core": _ratio(verify.cpu, by_math["service, from the cache"].cpu),
        "agreement": sum(a == b for a, b in answered) / len(answered),
    }
    for name, side in by_choice.items():
        if name.startswith("verl"):
            key = "choice_vs_verl_serial" if "serial" in name else "choice_vs_verl"
            figures[key] = _ratio(side.wall, service.wall)
            figures[f"{key}_per_core"] = _ratio(side.cpu, service.cpu)
    if "TRL accuracy_reward" in by_math:
        figures["math_vs_trl_per_core"] = _ratio(by_math["TRL accuracy_reward"].cpu, scored.cpu)
    return figures


def _hang_set(service: Services, options: argparse.Namespace) -> dict[str, Any]:
    """Each string by itself, a good answer after it, and at the end the first answers once more."""
    if not HANG_SET.exists():
        return {}
    before = math_samples(200, 20_000)
    expected = service.without_cache(before)
    table = Table(title=f"strings that hang: limit {options.limit:.1f} s")
    for column in ("string", "seconds", "until the next score, s", "verdict"):
        table.add_column(column, overflow="ellipsis", no_wrap=True)
    worst = worst_after = 0.0
    killed = 0
    entries = [json.loads(line) for line in HANG_SET.read_text().splitlines()]
    for entry in entries:
        question = dict(before[0].question, answer=entry["answer"])
        began = time.perf_counter()
        verdict = service.verdict(Sample("hang", question, entry["reply"], "", entry["reply"], False, True, 9, 0))
        seconds = time.perf_counter() - began
        service.without_cache(before[:1])
        after = time.perf_counter() - began - seconds
        worst, worst_after = max(worst, seconds), max(worst_after, after)
        killed += not verdict.valid
        table.add_row(entry["reply"][:40], f"{seconds:.2f}", f"{after:.2f}", verdict.reason or str(verdict.score))
    console.print(table)
    return {
        "hang_set": len(entries),
        "hang_set_invalid": killed,
        "hang_set_max_s": worst,
        "hang_set_next_max_s": worst_after,
        "limit_s": options.limit,
        "poisoned": sum(a != b for a, b in zip(service.without_cache(before), expected, strict=True)),
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--choice", type=int, default=20_000, help="multiple-choice answers")
    parser.add_argument("--math", type=int, default=2_000, help="answers in mathematics")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--limit", type=float, default=2.0, help="seconds that one sample may take in one function")
    parser.add_argument("--without", default="", help="comma-separated sides to leave out: verl, trl")
    options = parser.parse_args()
    options.without = {name for name in options.without.split(",") if name}
    return options


if __name__ == "__main__":
    main()

"""How fast an engine draws a policy update's samples, and what a swap, a probe and a start cost.

    python tests/benchmarks/rollout_batch.py [--questions 32] [--samples 8] [--tokens 25] [--threads 1] [--pool] [--model DIR]

The last line is one JSON object. Without --model a random model of the tiny preset's size answers questions about
chirps of 1 to 3.5 s; `--pool` measures through Ray, as a run does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

CLIP_SECONDS = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5)
TINY_DECODER = {"vocab_size": 600, "hidden": 128, "layers": 6, "encoder_state": 384, "encoder_layers": 1}
WARM_UP = 1


def main() -> None:
    options = _options()
    from engine_room import Library, chirp, probe_of, sampling, update_of

    from rollout.model.reference import random_checkpoint

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = Path(options.model) if options.model else random_checkpoint(folder / "tiny", 0, **TINY_DECODER)
        clips = [chirp(j, CLIP_SECONDS[j % len(CLIP_SECONDS)]) for j in range(options.questions)]
        library = Library(folder / "library", model_dir=model, clips=clips)
        spec = library.spec(max_num_seqs=options.max_num_seqs, threads=options.threads)
        prompts = library.audio_prompts
        specs = [sampling(1000 * j, samples=options.samples, tokens=options.tokens) for j in range(len(prompts))]
        ids = [prompt.question_id for prompt in prompts]
        side = _Pool(spec) if options.pool else _Engine(spec)
        figures: dict[str, Any] = {"start_s": _seconds(side.start)}
        batches, cpu = [], []
        for number in range(WARM_UP + options.repeats):
            began, worked = time.perf_counter(), _cpu_seconds()
            groups = side.generate(prompts, specs, ids)
            batches.append(time.perf_counter() - began)
            cpu.append(_cpu_seconds() - worked)
            update = update_of(number + 1, library.weights())
            figures.setdefault("swap_s", []).append(_seconds(lambda update=update: side.swap(update)))
        probes = [probe_of(p, g[0]) for p, g in zip(prompts, groups, strict=True)]
        figures["probe_s"] = _seconds(lambda: side.probe(probes))
        side.shutdown()
    tokens = sum(len(sample.response_ids) for group in groups for sample in group)
    figures |= {
        "samples": options.questions * options.samples,
        "tokens": tokens,
        "threads": options.threads,
        "through_ray": options.pool,
        "first_batch_s": batches[0],
        "batch_s": statistics.median(batches[WARM_UP:]),
        "batch_best_s": min(batches[WARM_UP:]),
        "batch_cpu_s": statistics.median(cpu[WARM_UP:]),
        "tokens_per_s": tokens / statistics.median(batches[WARM_UP:]),
        "swap_s": statistics.median(figures["swap_s"]),
    }
    print(json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in figures.items()}))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=32)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=25)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-num-seqs", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model", default="")
    parser.add_argument("--pool", action="store_true", help="through a Ray worker")
    return parser.parse_args()


def _seconds(action: Callable[[], Any]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _cpu_seconds() -> float:
    """CPU time of this process and those below it (Ray's workers are, the run before them is not)."""
    me = psutil.Process()
    times = [process.cpu_times() for process in (me, *me.children(recursive=True))]
    return sum(t.user + t.system for t in times)


class _Engine:
    """An engine in this process."""

    def __init__(self, spec: Any) -> None:
        from rollout import Engine

        self._runner = asyncio.Runner()
        self._engine = Engine(spec)

    def start(self) -> None:
        self._runner.run(self._engine.start())

    def generate(self, *batch: Any) -> Any:
        return self._runner.run(self._engine.generate(*batch))

    def swap(self, update: Any) -> None:
        self._runner.run(self._engine.swap(update))

    def probe(self, sequences: Any) -> None:
        self._runner.run(self._engine.probe(sequences))

    def shutdown(self) -> None:
        self._runner.run(self._engine.shutdown())
        self._runner.close()


class _Pool:
    """A pool of one worker on a Ray of its own."""

    LIMIT_S = 300.0

    def __init__(self, spec: Any) -> None:
        import ray

        from rollout import RolloutPool

        os.environ.setdefault("RAY_worker_niceness", "0")  # as a run does
        ray.init(num_cpus=2, include_dashboard=False, object_store_memory=200 << 20, log_to_driver=False)
        self._ray = ray
        self._pool = RolloutPool(spec, 1)

    def start(self) -> None:
        self._pool.start(self.LIMIT_S)

    def generate(self, *batch: Any) -> Any:
        return self._pool.generate(*batch)

    def swap(self, update: Any) -> None:
        self._pool.swap(update, self.LIMIT_S)

    def probe(self, sequences: Any) -> None:
        self._pool.probe(sequences)

    def shutdown(self) -> None:
        self._pool.shutdown()
        self._ray.shutdown()


if __name__ == "__main__":
    main()

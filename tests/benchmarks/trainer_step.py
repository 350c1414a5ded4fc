"""How long one policy update takes: old log-probs, values, critic and actor update of one batch, on one process.

Run it by hand: `python tests/benchmarks/trainer_step.py --help`. Prints wall and CPU seconds a phase and tokens/s.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--questions", type=int, default=16)
parser.add_argument("--samples", type=int, default=8)
parser.add_argument("--prompt", type=int, default=60, help="prompt tokens, audio included")
parser.add_argument("--response", type=int, default=35, help="mean response tokens")
parser.add_argument("--micro-batch-tokens", type=int, default=8192)
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--layers", type=int, default=6)
parser.add_argument("--minibatches", type=int, default=1)
parser.add_argument("--repeat", type=int, default=5)
parser.add_argument("--no-sharing", action="store_true", help="every sample carries its own prompt rows")
parser.add_argument("--train-adapter", action="store_true")

VOCABULARY = 600


def main() -> None:
    arguments = parser.parse_args()
    # glibc and OpenMP read these once, at start: begin again with a trainer rank's environment.
    from actor.testing import experiences, make_case, one_rank, optim, ppo, trainer_spec
    from actor.worker import worker_environment

    folder = Path(tempfile.mkdtemp(prefix="trainer_step"))
    case = make_case(folder, layers=arguments.layers, ffn=384, vocab_size=VOCABULARY)
    spec = trainer_spec(
        case,
        threads=arguments.threads,
        micro_batch_tokens=arguments.micro_batch_tokens,
        freeze=() if arguments.train_adapter else ("adapter.",),
        ppo=replace(ppo(), minibatches=arguments.minibatches),
        actor_optim=optim(lr=1e-4),
    )
    environment = worker_environment(spec)
    if any(os.environ.get(name) != value for name, value in environment.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | environment)
    import torch

    torch.set_num_threads(arguments.threads)
    batch = experiences(
        case,
        questions=arguments.questions,
        samples=arguments.samples,
        prompt_tokens=arguments.prompt,
        response_tokens=arguments.response,
    )
    with one_rank(spec, folder) as trainer:
        trainer.planner.share_prompts = not arguments.no_sharing
        trainer.reset_optimizer("ppo")
        trainer.ppo_update(batch, 0)
        phases: dict[str, float] = {}
        wall, cpu = time.perf_counter(), time.process_time()
        for seed in range(arguments.repeat):
            for name, seconds in trainer.ppo_update(batch, seed).seconds.items():
                phases[name] = phases.get(name, 0.0) + seconds / arguments.repeat
        wall, cpu = ((time.perf_counter() - wall) / arguments.repeat, (time.process_time() - cpu) / arguments.repeat)
    tokens = sum(len(item.prompt_ids) + len(item.response_ids) for item in batch)
    report = {
        "sequences": len(batch),
        "tokens": tokens,
        "wall_s": round(wall, 3),
        "cpu_s": round(cpu, 3),
        "tokens_per_s": round(tokens / wall),
        "phases_s": {name: round(seconds, 3) for name, seconds in phases.items()},
    }
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()

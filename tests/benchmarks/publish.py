"""How fast weights go through shared memory into another process, against a memcpy of the same bytes in the same run.

    python tests/benchmarks/publish.py [--megabytes 10 100 500 2000] [--repeats 7] [--bucket-mib 4] [--memory-gib 7] [--out FILE]

A publisher packs tensors into shared memory; one receiving process verifies them and copies them into parameters of its own, as an
engine does. Publish: from the first tensor taken to the receiver's word that all of them are right. memcpy: the receiver copies the
same bytes into the same parameters, nothing else. Both on one thread a process; medians after a warm-up; `first_s` is the very first
publish, into fresh memory, which a run pays twice and then never again. Without room for two versions within --memory-gib one slot is
used. The last line is one JSON object; `shm_vs_memcpy` is the lowest ratio of the sizes from 100 MB up (`at_megabytes`): less is a
matter of a millisecond or two, against a memcpy that stays within the processor's cache.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from actor.publishing import SegmentPublisher
from rollout import Reception, SegmentView, digest_of, raw_bytes, receive_segment

MEGABYTE, GIB = 1_000_000, 1 << 30
TENSOR_ROWS, TENSOR_BYTES = 1024, 4_000_000  # about what a layer's matrix has
LIMIT_S = 120.0
FROM_MB = 90  # the sizes that the summary speaks of


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    rows = [_measure(megabytes, options) for megabytes in options.megabytes]
    lines = [
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} of which this takes up to 2; buckets of {options.bucket_mib} MiB, "
        f"median of {options.repeats}",
        f"{'MB':>6} {'slots':>5} {'first s':>9} {'publish s':>10} {'GB/s':>7} {'memcpy s':>9} {'GB/s':>7} {'ratio':>6}",
    ]
    lines += [
        f"{row['megabytes']:>6.0f} {row['slots']:>5} {row['first_s']:>9.4f} {row['publish_s']:>10.4f} {row['publish_gb_s']:>7.2f} "
        f"{row['memcpy_s']:>9.4f} {row['memcpy_gb_s']:>7.2f} {row['ratio']:>6.2f}"
        for row in rows
    ]
    least = min((row for row in rows if row["megabytes"] > FROM_MB), key=lambda row: row["ratio"], default=None)
    summary = {"shm_vs_memcpy": least["ratio"], "at_megabytes": least["megabytes"]} if least else {}
    lines.append(json.dumps(summary | {"load": os.getloadavg()[0], "bucket_mib": options.bucket_mib, "sizes": rows}))
    print("\n".join(lines))
    if options.out:
        options.out.write_text("\n".join(["python tests/benchmarks/publish.py", *lines]) + "\n")


def _measure(megabytes: float, options: argparse.Namespace) -> dict[str, Any]:
    weights = _weights(int(megabytes * MEGABYTE))
    total = sum(tensor.numel() * 4 for tensor in weights.values())
    two_slots = 4 * total <= options.memory_gib * GIB
    publisher = SegmentPublisher(f"benchmark-{os.getpid()}", bucket_mib=options.bucket_mib)
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    receiver = context.Process(target=_receive, args=(there, shapes), daemon=True)
    receiver.start()
    publishes, copies = [], []
    try:
        assert here.recv() == "ready"
        for version in range(options.repeats + 3):
            began = time.perf_counter()
            here.send(("receive", str(publisher.journal(version)), version))
            published = publisher.publish(version, weights.items())
            assert here.recv() == published.checksum, "the receiver has other weights"
            publishes.append(time.perf_counter() - began)
            if two_slots:
                publisher.confirm(version)
            here.send(("memcpy", "", 0))
            copies.append(here.recv())
        here.send(("digest", "", 0))
        assert here.recv() == [digest_of(raw_bytes(tensor)) for tensor in weights.values()], "parameters differ"
    finally:
        here.send(("end", "", 0))
        receiver.join(10)
        publisher.close()
    publish_s, memcpy_s = statistics.median(publishes[3:]), statistics.median(copies[3:])
    return {
        "megabytes": total / MEGABYTE,
        "slots": 2 if two_slots else 1,
        "first_s": publishes[0],
        "publish_s": publish_s,
        "publish_gb_s": total / 1e9 / publish_s,
        "memcpy_s": memcpy_s,
        "memcpy_gb_s": total / 1e9 / memcpy_s,
        "ratio": memcpy_s / publish_s,
    }


def _weights(size: int) -> dict[str, torch.Tensor]:
    """Random matrices of `TENSOR_BYTES`, the last one smaller."""
    generator, weights = np.random.default_rng(0), {}
    for number, start in enumerate(range(0, size, TENSOR_BYTES)):
        columns = min(TENSOR_BYTES, size - start) // 4 // TENSOR_ROWS
        weights[f"model.layers.{number}.weight"] = torch.from_numpy(
            generator.standard_normal((TENSOR_ROWS, max(columns, 1)), dtype=np.float32)
        )
    return weights


def _receive(pipe: Connection, shapes: dict[str, tuple[int, ...]]) -> None:
    """The receiving process: parameters of its own, and what it is asked for until `end`."""
    torch.set_num_threads(1)
    parameters = {name: torch.ones(shape) for name, shape in shapes.items()}
    view, last = SegmentView(), {}

    def load(ready: list[tuple[str, torch.Tensor]]) -> None:
        for name, tensor in ready:
            parameters[name].copy_(tensor)
            last[name] = tensor

    pipe.send("ready")
    while True:
        what, journal, version = pipe.recv()
        if what == "receive":
            reception = Reception(shapes, load)
            receive_segment(reception, view, Path(journal), version, LIMIT_S)
            pipe.send(reception.checksum)
        elif what == "memcpy":
            pairs = [(raw_bytes(parameters[name]), raw_bytes(tensor)) for name, tensor in last.items()]
            began = time.perf_counter()
            for target_N, source_N in pairs:
                np.copyto(target_N, source_N)
            pipe.send(time.perf_counter() - began)
        elif what == "digest":
            pipe.send([digest_of(raw_bytes(tensor)) for tensor in parameters.values()])
        else:
            return


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, nargs="+", default=[10.0, 100.0, 500.0, 2000.0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--bucket-mib", type=int, default=4)
    parser.add_argument("--memory-gib", type=float, default=7.0)
    parser.add_argument("--out", type=Path, help="write the table there, too, as docs/results/publish.txt was")
    return parser.parse_args()


if __name__ == "__main__":
    main()

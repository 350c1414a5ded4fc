"""Memory and time of `mgrd import` and `mgrd export`, which hold one tensor at a time.

    python tests/benchmarks/conversion.py [--hidden 1024] [--layers 16] [--folder DIR]

A model folder with random float32 weights is imported and exported again, each in a process of its own. `peak_mib` is the most resident
memory above that of the same process on a model of a few hundred kilobytes; pages of the source file that it has mapped count, and vary.
Beside it the model's and its largest tensor's size. The last line is one JSON object; the folder that comes out must hold the bits that
went in.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

MIB = 2**20


@contextmanager
def unwatched(_total: int) -> Iterator[Callable[[], None]]:
    yield lambda: None


def convert(what: str, source: str, target: str, connection: Any) -> None:
    """One conversion; seconds and peak resident bytes of this process."""
    import torch

    from actor import Actor, export_merged, import_folder

    torch.set_num_threads(1)
    began = time.perf_counter()
    if what == "import":
        import_folder(source, Path(target), unwatched)
    else:
        export_merged(Actor.of(Path(source)), Path(target), unwatched)
    connection.send((time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


def measured(what: str, source: Path, target: Path) -> tuple[float, float]:
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=convert, args=(what, str(source), str(target), there))
    process.start()
    there.close()
    try:
        return here.recv()
    finally:
        process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--folder", type=Path, default=None, help="where to write (three times the model)")
    asked = parser.parse_args()
    from actor.testing import make_case
    from rollout import FolderWeights

    table = Table(title="One process, one tensor at a time")
    for column in ("", "model MiB", "largest tensor MiB", "peak above start MiB", "s"):
        table.add_column(column, justify="right")
    result: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        sizes = {
            "small": {},
            "large": {
                "hidden": asked.hidden,
                "layers": asked.layers,
                "ffn": 3 * asked.hidden,
                "heads": asked.hidden // 64,
            },
        }
        cases = {name: make_case(Path(folder) / name, **size) for name, size in sizes.items()}
        weights = FolderWeights(cases["large"].model)
        tensors = [weights[name].nbytes for name in weights]
        for what in ("import", "export"):
            peaks, seconds = {}, 0.0
            for name, case in cases.items():
                source, target = case.model, Path(folder) / name / "checkpoint"
                if what == "export":
                    source, target = target, Path(folder) / name / "out"
                seconds, peaks[name] = measured(what, source, target)
            above = (peaks["large"] - peaks["small"]) / MIB
            figures = (sum(tensors) / MIB, max(tensors) / MIB, above, seconds)
            table.add_row(what, *(f"{figure:.1f}" for figure in figures))
            result |= {f"{what}_peak_mib": round(above, 1), f"{what}_s": round(seconds, 1)}
        came = FolderWeights(Path(folder) / "large" / "out")
        assert all((came[name] == weights[name]).all() for name in weights), "the bits changed on the way"
    Console(width=100).print(table)
    result |= {"model_mib": round(sum(tensors) / MIB, 1), "largest_tensor_mib": round(max(tensors) / MIB, 1)}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()

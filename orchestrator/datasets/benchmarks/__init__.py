"""Public benchmarks from local files in the formats they are published in.

One module a benchmark says what its records look like and how they are scored; `registry` lists them. `records` reads files (JSON, JSON
lines, parquet), `clips` finds or writes out the recordings. Nothing is downloaded.
"""

from orchestrator.datasets.benchmarks.format import Benchmark, JudgeAccess
from orchestrator.datasets.benchmarks.registry import BENCHMARKS, load_benchmark

__all__ = ["BENCHMARKS", "Benchmark", "JudgeAccess", "load_benchmark"]

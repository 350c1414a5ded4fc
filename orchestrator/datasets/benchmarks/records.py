"""Records of a file, whatever it is written in: a JSON array, JSON lines, or parquet.

Neighbours: `registry` asks for them; the benchmark's module knows their fields. Invariants: records come in the file's order, each with
its number from 1; a file or line that can't be read is a `Problem`, not an exception half-way.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.datasets.jsonl import json_lines, text_of
from orchestrator.datasets.schema import DataError, Problem

PARQUET_ROWS = 32  # at a time: rows carry whole recordings


def find_files(path: Path, patterns: tuple[str, ...]) -> list[Path]:
    """The file itself, or what a folder holds under the first pattern that matches. Raises DataError."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path} does not exist; give the benchmark's folder or file")
    for pattern in patterns:
        if found := sorted(file for file in path.glob(pattern) if file.is_file()):
            return found
    raise DataError(
        f"{path} holds none of {', '.join(patterns)}; give the folder the benchmark was downloaded to, or its file"
    )


def read_records(file: Path, problems: list[Problem]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, record). What is no record goes to `problems`. Raises DataError for a file that can't be read at all."""
    if file.suffix == ".parquet":
        yield from _parquet(file)
        return
    text = text_of(file, "give the file as it was published, in UTF-8")
    if text.lstrip().startswith("["):
        yield from _array(file, text, problems)
        return
    for number, record in json_lines(file, text, problems):
        if isinstance(record, dict):
            yield number, record
        else:
            problems.append(Problem(file, number, "a record must be a JSON object"))


def _array(file: Path, text: str, problems: list[Problem]) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        records = json.loads(text)
    except ValueError as error:
        raise DataError(f"{file} is not JSON: {error}; download it again") from error
    for number, record in enumerate(records, 1):
        if isinstance(record, dict):
            yield number, record
        else:
            problems.append(Problem(file, 0, f"record {number}: must be a JSON object"))


def _parquet(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise DataError(f"{file}: reading parquet needs pyarrow; install it, or give the benchmark as JSON") from error
    number = 0
    try:
        with ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=PARQUET_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (ArrowException, OSError) as error:
        raise DataError(f"{file} can't be read after row {number}: {error}; download it again") from error

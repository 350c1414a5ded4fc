"""Scored trajectories on disk: what a run saw, so that another reward can be tried on it later.

One gzipped JSONL file a policy update, one `{"sample", "verdict"}` a line. Neighbours: `orchestrator` writes them beside a run,
`lab` reads them. Invariant: a file is written whole, then named.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from rewards.errors import RewardError
from rewards.messages import Sample, Verdict

TRAJECTORY_SUFFIX = ".jsonl.gz"


@dataclass(frozen=True, slots=True)
class StoredTrajectory:
    """A sample and the verdict it got in its run."""

    sample: Sample
    verdict: Verdict


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(StoredTrajectory)


def write_stored(path: Path, trajectories: Iterable[StoredTrajectory]) -> None:
    """Same trajectories, same bytes. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = b"".join(_encoder.encode(trajectory) + b"\n" for trajectory in trajectories)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        file.write(gzip.compress(data, compresslevel=6, mtime=0))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_stored(paths: Iterable[Path]) -> Iterator[StoredTrajectory]:
    """Trajectories of all files (gzipped or plain JSONL), in order. Raises RewardError naming file and line."""
    for path in paths:
        try:
            data = path.read_bytes()
            text = gzip.decompress(data) if path.suffix == ".gz" else data
        except (OSError, EOFError, gzip.BadGzipFile) as error:
            raise RewardError(f"the stored trajectories {path} can't be read: {error}") from error
        for number, line in enumerate(text.splitlines(), 1):
            try:
                yield _decoder.decode(line)
            except (msgspec.DecodeError, ValueError) as error:
                raise RewardError(f"{path}, line {number}: not a stored trajectory: {error}") from error

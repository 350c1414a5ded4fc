"""Which checkpoint a person means: a folder, a run of which the best or newest is meant, or the same below a URL.

Neighbours: `checkpoint_cli` asks, `checkpoints` and `checkpoint_mirror` know what there is. Invariants: nothing is guessed between
two that would fit: what was chosen is said; nothing below a URL is copied but the actor's files and the seals around them, and the
copy is gone when it was used.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from actor import SEAL
from orchestrator.checkpoint_mirror import CheckpointMirror, is_url
from orchestrator.checkpoints import TRAINER, CheckpointShelf, Kept
from orchestrator.errors import ConfigError

ACTOR = "actor"
CHECKPOINTS = "checkpoints"  # folder of a run


@dataclass(frozen=True, slots=True)
class Chosen:
    """A checkpoint on this machine. part: folder of the actor's files in it; name: for a person."""

    folder: Path
    part: str
    name: str


@contextmanager
def chosen(text: str, scratch: Path) -> Iterator[Chosen]:
    """What `text` means. scratch: folder that a copy from a URL may fill for the length of the block. Raises ConfigError when there
    is no checkpoint, RunFailed when what is below a URL is not whole."""
    if not is_url(text):
        yield _on_disk(Path(text))
        return
    mirror, name = _below_url(text)
    try:
        mirror.fetch(name, scratch, f"{TRAINER}/{ACTOR}")
        yield Chosen(scratch, f"{TRAINER}/{ACTOR}", f"{mirror.url}/{name}")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def run_shelf(path: Path) -> CheckpointShelf | None:
    """Checkpoints of the run in `path` (or of its folder `checkpoints`); None when it is none."""
    for root in (path / CHECKPOINTS, path):
        if root.name == CHECKPOINTS and root.is_dir():
            return CheckpointShelf(root)
    return None


def _on_disk(path: Path) -> Chosen:
    for part in (f"{TRAINER}/{ACTOR}", ACTOR):
        if (path / part).is_dir():
            folder = path.resolve()  # `best` is a link
            return Chosen(folder, part, str(folder))
    shelf = run_shelf(path)
    if shelf is None:
        raise ConfigError(
            f"{path} is no checkpoint and no run: it has neither {SEAL} beside a folder {TRAINER} or {ACTOR}, nor {CHECKPOINTS}; give "
            "RUN, RUN/checkpoints/NAME or a URL of run.checkpoint_url"
        )
    name = shelf.best or _newest(shelf.kept(), str(path))
    return Chosen(shelf.path(name).resolve(), f"{TRAINER}/{ACTOR}", str(shelf.path(name)))


def _below_url(text: str) -> tuple[CheckpointMirror, str]:
    root, _, name = text.rstrip("/").rpartition("/")
    named = CheckpointMirror(root)
    if named.has(name):
        return named, name
    run = CheckpointMirror(text)
    return run, _newest(run.kept(), text)


def _newest(kept: Sequence[Kept], where: str) -> str:
    if not kept:
        raise ConfigError(f"{where} has no complete checkpoint")
    return kept[-1].name

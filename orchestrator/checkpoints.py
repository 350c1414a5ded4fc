"""The named checkpoints of one run: begun hidden, sealed, named in one rename; which of them stay.

Neighbours: `conductor` writes and takes them up, the trainer fills their folder `trainer`, `checkpoint_mirror` copies them to a URL,
`checkpoint_cli` lists them. Invariants: a name stands for a whole, sealed checkpoint or for nothing; a damaged one is refused by the
name of its file; what is dropped is neither among the newest nor among the best.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actor import SEAL, CheckpointError, Seal, check, read_seal, seal_of, sync_folder, write_seal
from orchestrator.errors import RunFailed

CHECKPOINT_PREFIX = "update_"  # of policy updates
STEP_PREFIX = "step_"  # of supervised steps
BEST = "best"  # a link to the best of policy updates
TRAINER = "trainer"  # folder of the trainer's files
STATE = "state.json"  # version of the weights, progress of the stage


@dataclass(frozen=True, slots=True)
class Metric:
    """What "best" means. name: of a policy update's record; smaller: less is better (written with a minus in the config)."""

    name: str
    smaller: bool

    @classmethod
    def parse(cls, text: str) -> Metric:
        return cls(text.removeprefix("-"), text.startswith("-"))

    def rank(self, metrics: Mapping[str, float]) -> float:
        """Larger is better; what was not measured, or is not a number, is worst."""
        value = metrics.get(self.name, math.nan)
        if math.isnan(value):
            return -math.inf
        return -value if self.smaller else value


@dataclass(frozen=True, slots=True)
class Kept:
    """One checkpoint on the shelf.

    stage: that wrote it; update: number of the policy update, -1 for others; version: of its weights; metrics: of the policy update
    after which it was written (its trajectories came from the weights before); written: when, seconds since 1970; size: bytes.
    """

    name: str
    stage: str
    update: int
    version: int
    written: float
    size: int
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Listed:
    """A checkpoint as it lies there. layout: that the actor was trained in; problem: what is wrong with its files, "" when whole."""

    kept: Kept
    layout: str
    problem: str


def retained(kept: Sequence[Kept], *, newest: int, best: int, metric: Metric) -> set[str]:
    """Names that stay: the `newest` of policy updates and of supervised steps each, the `best` of policy updates that have the
    metric (of equals the newer), and every checkpoint that ends a stage."""
    order = sorted(kept, key=lambda one: (one.written, one.name))
    stay = {one.name for one in order if not one.name.startswith((CHECKPOINT_PREFIX, STEP_PREFIX))}
    for prefix in (CHECKPOINT_PREFIX, STEP_PREFIX):
        stay |= _last([one.name for one in order if one.name.startswith(prefix)], newest)
    return stay | _last([one.name for one in _by_merit(order, metric)], best)


def best_of(kept: Sequence[Kept], metric: Metric) -> str:
    """The best of policy updates; "" while none has the metric."""
    order = _by_merit(sorted(kept, key=lambda one: (one.written, one.name)), metric)
    return order[-1].name if order else ""


def _by_merit(order: Sequence[Kept], metric: Metric) -> list[Kept]:
    """Those that compete, the best last."""
    measured = [one for one in order if one.name.startswith(CHECKPOINT_PREFIX) and metric.rank(one.metrics) > -math.inf]
    return sorted(measured, key=lambda one: metric.rank(one.metrics))


def _last(names: Sequence[str], count: int) -> set[str]:
    return set(names[len(names) - min(count, len(names)) :])


class CheckpointShelf:
    """Checkpoints under `root`, one folder each."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, name: str) -> Path:
        return self.root / name

    def begin(self, name: str) -> Path:
        """An empty folder to write into; `complete` makes it real. What a killed process left unfinished is deleted."""
        for stale in self.root.glob(".*.tmp"):
            _remove(stale)
        temporary = self._temporary(name)
        temporary.mkdir(parents=True)
        return temporary

    def complete(self, name: str, state: str, about: Mapping[str, Any]) -> Path:
        """Seal and name what was begun. state: JSON text kept beside the trainer's files; about: see `Kept`. Raises RunFailed when
        the disk refuses."""
        temporary = self._temporary(name)
        if not (temporary / TRAINER / SEAL).is_file():
            raise RunFailed(f"checkpoint {name} is not complete: the trainer has not sealed {temporary / TRAINER}")
        try:
            with (temporary / STATE).open("w", encoding="utf-8") as file:
                file.write(state)
                file.flush()
                os.fsync(file.fileno())
            seals = sorted(temporary.rglob(SEAL))
            write_seal(temporary, seal_of([temporary / STATE, *seals], temporary), about)
            return self._name(temporary, name)
        except OSError as error:
            raise RunFailed(
                f"checkpoint {name} cannot be completed in {self.root}: {error}; free or mend the disk"
            ) from error

    def adopt(self, name: str) -> Path:
        """Name what was begun and filled with a whole checkpoint from elsewhere."""
        return self._name(self._temporary(name), name)

    def link(self, name: str, alias: str) -> Path:
        """The checkpoint `name` under a second name, without a second copy of its files."""
        temporary = self._temporary(alias)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(self.path(name), temporary, copy_function=os.link)
        return self._name(temporary, alias)

    def open(self, name: str) -> tuple[Path, str]:
        """Folder of the trainer's files, and the state kept beside them; sizes of all files and the state's content are verified
        here, the trainer verifies the contents of what it loads. Raises RunFailed naming what is damaged."""
        path = self.path(name)
        try:
            check(path, digests=False)
            seal = read_seal(path)
            if seal_of([path / STATE], path)[STATE] != seal.files[STATE]:
                raise CheckpointError(f"{path / STATE} has changed since it was written")
            return path / TRAINER, (path / STATE).read_text(encoding="utf-8")
        except (CheckpointError, OSError, KeyError) as error:
            raise RunFailed(
                f"checkpoint {name} cannot be used: {error}. `mgrd checkpoints {self.root.parent}` shows which are whole"
            ) from error

    def is_whole(self, name: str) -> bool:
        """Whether all its files are there with their sizes."""
        try:
            check(self.path(name), digests=False)
        except CheckpointError:
            return False
        return True

    def kept(self) -> list[Kept]:
        """Every checkpoint that has a readable seal, oldest first."""
        found = []
        for path in self._folders():
            try:
                seal = read_seal(path)
            except CheckpointError:
                continue
            found.append(kept_of(path.name, seal, sum(p.stat().st_size for p in path.rglob("*") if p.is_file())))
        return sorted(found, key=lambda one: (one.written, one.name))

    def listed(self, *, digests: bool) -> list[Listed]:
        """Every named checkpoint, oldest first, then those whose seal cannot be read. digests: contents are read and compared, too."""
        found = []
        for path in self._folders():
            try:
                seal = read_seal(path)
                kept = kept_of(path.name, seal, sum(p.stat().st_size for p in path.rglob("*") if p.is_file()))
            except CheckpointError as error:
                found.append(Listed(Kept(path.name, "", -1, 0, math.inf, 0), "", str(error)))
                continue
            layout, problem = "", ""
            try:
                layout = str(read_seal(path / TRAINER).about.get("layout", ""))
                check(path, digests=digests)
            except CheckpointError as error:
                problem = str(error)
            found.append(Listed(kept, layout, problem))
        return sorted(found, key=lambda one: (one.kept.written, one.kept.name))

    @property
    def best(self) -> str:
        """Name of the checkpoint that `best` points to; "" without."""
        link = self.path(BEST)
        return link.resolve().name if link.is_symlink() and link.exists() else ""

    @property
    def unfinished(self) -> list[str]:
        """Names that are being written, or were when a process was killed."""
        return sorted(path.name[1:-4] for path in self.root.glob(".*.tmp") if path.is_dir())

    def drop(self, *, newest: int, best: int, metric: Metric, busy: Iterable[str] = ()) -> list[str]:
        """Delete what `retained` does not name, and point `best` to the best. busy: names that stay for now. Returns what went."""
        kept = self.kept()
        stay = retained(kept, newest=newest, best=best, metric=metric) | set(busy)
        chosen = best_of([one for one in kept if one.name in stay], metric) if best else ""
        if chosen:
            self._point(chosen)
        gone = [one.name for one in kept if one.name not in stay]
        for name in gone:
            _remove(self.path(name))
        return gone

    def forget(self, stage: str) -> None:
        """Delete what an earlier attempt of a stage has kept on its way: it begins anew."""
        for one in self.kept():
            if one.stage == stage and one.name.startswith((CHECKPOINT_PREFIX, STEP_PREFIX)):
                _remove(self.path(one.name))

    def _folders(self) -> list[Path]:
        if not self.root.is_dir():
            return []
        return sorted(
            p for p in self.root.iterdir() if p.is_dir() and not p.is_symlink() and not p.name.startswith(".")
        )

    def _temporary(self, name: str) -> Path:
        return self.root / f".{name}.tmp"

    def _name(self, temporary: Path, name: str) -> Path:
        final = self.path(name)
        _remove(final)
        os.replace(temporary, final)
        sync_folder(self.root)
        return final

    def _point(self, name: str) -> None:
        temporary = self._temporary(BEST)
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(name, target_is_directory=True)
        os.replace(temporary, self.path(BEST))


def _remove(path: Path) -> None:
    """A folder or link; its seal goes first, so that what a kill leaves half deleted is no checkpoint."""
    if path.is_symlink():
        path.unlink()
        return
    (path / SEAL).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def kept_of(name: str, seal: Seal, size: int) -> Kept:
    """What a seal says of the checkpoint `name`, whose files are `size` bytes."""
    about = seal.about
    return Kept(
        name=name,
        stage=str(about.get("stage", "")),
        update=int(about.get("update", -1)),
        version=int(about.get("version", 0)),
        written=float(about.get("written", 0.0)),
        size=size,
        metrics=dict(about.get("metrics", {})),
    )

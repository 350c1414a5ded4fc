"""Named checkpoints copied to a URL (S3, GCS, NFS, … whatever fsspec opens), and back.

Neighbours: `checkpoint_keeper` hands it what has a name and asks it for what is gone, `checkpoint_cli` reads from it.
Invariants: whole checkpoints are copied after they have a name here, seals last and the outermost at the very end, so that what a
kill leaves half copied has no seal and is never read; what comes back is verified file by file before it gets its name; an upload
that fails is tried again for minutes and then told to whoever asks next.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path

import fsspec
import stamina

from actor import SEAL, CheckpointError, check, parse_seal
from orchestrator.checkpoints import Kept, Metric, kept_of, retained
from orchestrator.errors import ConfigError, RunFailed

log = logging.getLogger(__name__)
ATTEMPTS = 8  # of one file
PATIENCE_S = 300.0  # of all attempts: an object store may be away for some minutes


def is_url(text: str) -> bool:
    return "://" in text


def mirror_of(url: str, run_directory: Path) -> CheckpointMirror | None:
    """Where a run's checkpoints are copied: below `url`, in a folder named as the run directory; None without a URL."""
    return CheckpointMirror(f"{url.rstrip('/')}/{run_directory.name}") if url else None


class CheckpointMirror:
    """Checkpoints of one run below `url`, a folder each. Raises ConfigError for a URL that nothing here can open."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        try:
            self._fs, self._root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"checkpoints cannot be kept at {self.url}: {error}") from error
        self._root = self._root.rstrip("/")
        self._upload: tuple[str, Future[None]] | None = None

    def probe(self) -> None:
        """Raises ConfigError when nothing can be written there."""
        path = f"{self._root}/.probe"
        try:
            self._fs.makedirs(self._root, exist_ok=True)
            self._fs.pipe_file(path, b"mgrd")
            self._fs.rm_file(path)
        except Exception as error:
            raise ConfigError(
                f"run.checkpoint_url: {self.url} cannot be written ({type(error).__name__}: {error}); check address and credentials"
            ) from error

    @property
    def busy(self) -> set[str]:
        """Names whose files here are still being copied."""
        return {self._upload[0]} if self._upload is not None and not self._upload[1].done() else set()

    def send(self, folder: Path) -> None:
        """Copy a named checkpoint in the background; waits for the one before. Raises RunFailed when that one failed."""
        self.wait()
        done: Future[None] = Future()
        self._upload = folder.name, done
        # A daemon: a run that is interrupted does not stay for the sake of a copy.
        threading.Thread(target=self._send_and_tell, args=(folder, done), daemon=True, name="checkpoint_upload").start()

    def wait(self) -> None:
        """Returns when nothing is being copied. Raises RunFailed with the reason when the last copy failed."""
        upload, self._upload = self._upload, None
        if upload is None:
            return
        error = upload[1].exception()
        if error is not None:
            raise RunFailed(
                f"checkpoint {upload[0]} could not be copied to {self.url} ({type(error).__name__}: {error}). It is whole on this "
                "machine; mend the store, or go on with run.checkpoint_url= and copy it later"
            ) from error

    def _send_and_tell(self, folder: Path, done: Future[None]) -> None:
        try:
            self._send(folder)
        except Exception as error:  # noqa: BLE001 (raised by `wait`)
            done.set_exception(error)
        else:
            done.set_result(None)

    def _send(self, folder: Path) -> None:
        target = f"{self._root}/{folder.name}"
        files = [path for path in folder.rglob("*") if path.is_file()]
        # Data first, then seals from the inside to the outside.
        order = sorted(files, key=lambda path: (path.name == SEAL, -len(path.parts), str(path)))
        for attempt in stamina.retry_context(on=Exception, attempts=ATTEMPTS, timeout=PATIENCE_S):
            with attempt:
                self.delete(folder.name)
        for path in order:
            name = path.relative_to(folder).as_posix()
            for attempt in stamina.retry_context(on=Exception, attempts=ATTEMPTS, timeout=PATIENCE_S):
                with attempt:
                    self._fs.makedirs(f"{target}/{name}".rpartition("/")[0], exist_ok=True)
                    self._fs.put_file(str(path), f"{target}/{name}")

    def delete(self, name: str) -> None:
        """The seal goes first: what is left of a deletion that was cut off is no checkpoint."""
        target = f"{self._root}/{name}"
        self._fs.invalidate_cache()
        if self._fs.exists(f"{target}/{SEAL}"):
            self._fs.rm_file(f"{target}/{SEAL}")
        if self._fs.exists(target):
            self._fs.rm(target, recursive=True)

    def kept(self) -> list[Kept]:
        """Whole checkpoints there, oldest first."""
        self._fs.invalidate_cache()
        if not self._fs.isdir(self._root):
            return []
        found = []
        for entry in self._fs.ls(self._root, detail=False):
            name = str(entry).rstrip("/").rpartition("/")[2]
            seal = f"{self._root}/{name}/{SEAL}"
            if not self._fs.exists(seal):
                continue
            try:
                about = parse_seal(self._fs.cat_file(seal).decode(), f"{self.url}/{name}/{SEAL}")
            except (CheckpointError, UnicodeDecodeError) as error:
                log.warning("%s", error)
                continue
            found.append(kept_of(name, about, int(self._fs.du(f"{self._root}/{name}"))))
        return sorted(found, key=lambda one: (one.written, one.name))

    def has(self, name: str) -> bool:
        self._fs.invalidate_cache()
        return bool(self._fs.exists(f"{self._root}/{name}/{SEAL}"))

    def drop(self, *, newest: int, best: int, metric: Metric, busy: Iterable[str] = ()) -> None:
        """Delete there what `retained` does not name."""
        kept = self.kept()
        stay = retained(kept, newest=newest, best=best, metric=metric) | set(busy) | self.busy
        for one in kept:
            if one.name not in stay:
                self.delete(one.name)

    def fetch(self, name: str, folder: Path, below: str = "") -> None:
        """Copy a checkpoint into `folder` (made anew) and verify every file. below: what lies in this folder of it alone, and all
        seals. Raises RunFailed for one that is not there, or not whole."""
        if not self.has(name):
            raise RunFailed(
                f"{self.url} has no complete checkpoint {name}; it has {', '.join(one.name for one in self.kept()) or 'none'}"
            )
        shutil.rmtree(folder, ignore_errors=True)
        try:
            source = f"{self._root}/{name}"
            for path in self._fs.find(source):
                target = folder / str(path)[len(source) :].lstrip("/")
                if target.name != SEAL and not target.is_relative_to(folder / below):
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                self._fs.get_file(path, str(target))
            check(folder, below=below)
        except (OSError, CheckpointError, json.JSONDecodeError) as error:
            raise RunFailed(f"checkpoint {name} cannot be fetched from {self.url}: {error}") from error

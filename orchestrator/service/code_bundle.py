"""User code as one zip, the same bytes wherever and whenever it is made: it travels with an experiment under its SHA-256.

Neighbours: both clients upload it, the job unpacks it as its working directory. Invariants: entries sorted, times and modes fixed, so
that equal files have an equal hash; version control, caches and environments stay at home; links are followed only inside the folder.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from orchestrator.errors import ConfigError

SKIPPED = (
    *(".git", ".hg", ".svn", ".venv", "venv", "node_modules", "__pycache__", "*.pyc", ".mypy_cache", ".ruff_cache"),
    *(".pytest_cache", ".hypothesis", ".ipynb_checkpoints", "*.egg-info", ".DS_Store", "runs", "mlruns"),
)
IGNORE_FILE = ".mgrdignore"
MAX_MB = 64.0  # the service's own default limit
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold


@dataclass(frozen=True, slots=True)
class CodeBundle:
    """sha256: of the zip's bytes; files: number of them."""

    sha256: str
    files: int
    content: bytes = field(repr=False)


def bundle_code(folder: Path, *, max_mb: float = MAX_MB) -> CodeBundle:
    """Zip `folder`. Patterns in its .mgrdignore, a line each, are skipped too. Raises ConfigError for none, nothing or too much."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder: give --code the folder that holds your rewards or readers")
    try:
        patterns = (*SKIPPED, *_ignored(folder))
        buffer = io.BytesIO()
        sizes: dict[str, int] = {}
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as out:
            for path, name in sorted(_files(folder, patterns), key=lambda found: found[1]):
                entry = zipfile.ZipInfo(name, EPOCH)
                entry.external_attr = (0o755 if os.access(path, os.X_OK) else 0o644) << 16
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.create_system = 3
                content = path.read_bytes()
                sizes[name] = len(content)
                if sum(sizes.values()) > 16 * max_mb * 2**20:  # not worth compressing: data, not code
                    raise _too_large(folder, sizes, max_mb)
                out.writestr(entry, content)
    except OSError as error:
        raise ConfigError(f"{error.filename or folder} can't be read: {error.strerror}") from error
    if not sizes:
        raise ConfigError(f"{folder} holds no file that would travel (skipped: {', '.join(patterns)})")
    content = buffer.getvalue()
    if len(content) > max_mb * 2**20:
        raise _too_large(folder, sizes, max_mb)
    return CodeBundle(hashlib.sha256(content).hexdigest(), len(sizes), content)


def is_sha256(text: str) -> bool:
    """Whether it names code that was uploaded, rather than a folder."""
    return re.fullmatch(r"[0-9a-f]{64}", text) is not None


def _files(folder: Path, patterns: tuple[str, ...]) -> Iterator[tuple[Path, str]]:
    root = folder.resolve()
    for where, folders, names in os.walk(root):
        base = Path(where)
        folders[:] = [name for name in folders if not _skipped((base / name).relative_to(root), patterns)]
        for name in names:
            path = base / name
            relative = path.relative_to(root)
            if _skipped(relative, patterns) or not path.is_file():
                continue
            if not path.resolve().is_relative_to(root):
                raise ConfigError(
                    f"{path} is a link to {path.resolve()}, outside of {folder}: copy it, or skip it in .mgrdignore"
                )
            yield path, relative.as_posix()


def _skipped(relative: Path, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(relative.name, pattern) or fnmatch(relative.as_posix(), pattern) for pattern in patterns)


def _ignored(folder: Path) -> tuple[str, ...]:
    path = folder / IGNORE_FILE
    if not path.is_file():
        return ()
    lines = (line.strip().rstrip("/") for line in path.read_text(encoding="utf-8").splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


def _too_large(folder: Path, sizes: dict[str, int], max_mb: float) -> ConfigError:
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:3]
    named = ", ".join(f"{name} ({size / 2**20:.1f} MB)" for name, size in largest)
    return ConfigError(
        f"{folder} is over {max_mb:g} MB as a zip; its largest files: {named}. Code travels, data does not: leave it out with a line in "
        f"{folder / IGNORE_FILE}, or give a smaller folder"
    )

"""Equal code has an equal hash; what does not belong to it stays at home."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pytest

from orchestrator.errors import ConfigError
from orchestrator.service.code_bundle import bundle_code


def written(folder: Path, names: list[str]) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}\n")
    return folder


def test_the_same_files_make_the_same_zip_whenever_and_wherever(tmp_path: Path) -> None:
    names = ["rewards.py", "readers/mine.py", "readers/__init__.py"]
    first, second = written(tmp_path / "a", names), written(tmp_path / "b", list(reversed(names)))
    os.utime(second / "rewards.py", (0, 0))
    assert bundle_code(first) == bundle_code(second)
    (second / "rewards.py").write_text("changed")
    assert bundle_code(first).sha256 != bundle_code(second).sha256


def test_caches_version_control_and_ignored_files_stay_at_home(tmp_path: Path) -> None:
    folder = written(
        tmp_path, ["a.py", ".git/config", "x/__pycache__/a.pyc", ".venv/bin/python", "data/big.bin", "x/b.py"]
    )
    (folder / ".mgrdignore").write_text("# not code\ndata/\n")
    bundle = bundle_code(folder)
    names = zipfile.ZipFile(io.BytesIO(bundle.content)).namelist()
    assert names == [".mgrdignore", "a.py", "x/b.py"]
    assert bundle.files == 3


def test_too_much_nothing_and_links_outside_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder"):
        bundle_code(tmp_path / "missing")
    with pytest.raises(ConfigError, match="no file"):
        bundle_code(tmp_path)
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "noise.bin").write_bytes(os.urandom(300_000))
    with pytest.raises(ConfigError, match=r"noise.bin \(0.3 MB\)"):
        bundle_code(folder, max_mb=0.1)
    (folder / "noise.bin").unlink()
    (folder / "secret").symlink_to("/etc/hostname")
    with pytest.raises(ConfigError, match="outside"):
        bundle_code(folder)

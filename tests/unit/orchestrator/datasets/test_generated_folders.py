"""Generated files are reused only while the generator that wrote them is the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from orchestrator import data_stage
from orchestrator.config.compose import compose_config
from orchestrator.datasets import conversations, text_reasoning
from orchestrator.datasets.folders import generator_digest
from orchestrator.progress import ProgressView

ROLES = {"text_train", "text_held_out", "conversations"}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "drawing_of_problems"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "draws.py").write_text("LARGEST = 9\n")
    (tmp_path / "one_module.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def test_every_module_of_a_generator_is_in_its_digest(package: Path) -> None:
    names = (package.name, "one_module")
    found = {generator_digest(names)}
    (package / "draws.py").write_text("LARGEST = 8\n")
    found.add(generator_digest(names))
    (package / "more.py").write_text("")
    found.add(generator_digest(names))
    (package.parent / "one_module.py").write_text("X = 1\n")
    found.add(generator_digest(names))
    assert len(found) == 4 and generator_digest(names) in found


def test_a_name_that_is_no_module_is_refused() -> None:
    with pytest.raises(ValueError, match=r"orchestrator\.nowhere is no module"):
        generator_digest(["orchestrator.nowhere"])


@pytest.mark.parametrize("generator", [text_reasoning, conversations])
def test_sources_hold_the_generator_itself(generator) -> None:
    assert generator.__name__ in generator.SOURCES and len(generator_digest(generator.SOURCES)) == 64


def test_a_changed_generator_is_not_served_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MGRD_CACHE", str(tmp_path))
    config = compose_config(["experiment=mgrd_micro", "data.text_questions=12", "data.text_held_out_questions=6"])
    files = lambda: data_stage._text_files(config, ProgressView(Console(quiet=True)))  # noqa: E731
    first = files()
    written = {name: path.stat().st_mtime_ns for name, path in first.items()}
    assert first.keys() == ROLES and files() == first
    assert written == {name: path.stat().st_mtime_ns for name, path in first.items()}

    monkeypatch.setattr(data_stage, "generator_digest", lambda sources: "0" * 64)
    other = files()
    assert not set(other.values()) & set(first.values())
    assert all(other[name].read_bytes() == path.read_bytes() for name, path in first.items())

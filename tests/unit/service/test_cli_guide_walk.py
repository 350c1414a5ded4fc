"""The guide is made by its script: commands run, outputs replaced, secrets and folders of the machine left out."""

from __future__ import annotations

import importlib.util
import stat
import sys
from pathlib import Path
from types import ModuleType

import pytest
from typer.main import get_command

from orchestrator.cli import app

ROOT = Path(__file__).parents[3]
MGRD = """#!/bin/sh
case "$1" in
  up) echo "token mgrd_0123456789ab_$(printf 'x%.0s' $(seq 43)) in $MGRD_STATE and $PWD" ;;
  events) trap 'exit 0' INT; while true; do echo update; sleep 0.05; done ;;
  down) touch "$MGRD_STATE/stopped" ;;
  *) cat my_rewards.py; exit 3 ;;
esac
"""
PAGE = """# Walk
<!-- file my_rewards.py -->
```python
RATE = 1
```
<!-- walk -->
```console
$ mgrd up
what it said last year
$ true
```
<!-- walk until="update" -->
```console
$ mgrd events
```
<!-- walk code=3 -->
```console
$ mgrd odd
```
"""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("guide_walk", ROOT / "scripts" / "guide_walk.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["guide_walk"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def mgrd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A command `mgrd` that stands beside the interpreter."""
    command = tmp_path / "bin" / "mgrd"
    command.parent.mkdir()
    command.write_text(MGRD)
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(command.with_name("python")))
    (tmp_path / "tour").mkdir()
    return tmp_path / "tour"


def test_outputs_are_replaced_and_the_machine_is_left_out(script: ModuleType, mgrd: Path) -> None:
    fresh = script.walk(PAGE, mgrd)
    assert "token mgrd_… in ~/.cache/mgrd and ~/walk\n$ true\n```" in fresh
    assert "last year" not in fresh and str(mgrd) not in fresh
    assert "$ mgrd events\nupdate\n" in fresh and "$ mgrd odd\nRATE = 1\n```" in fresh
    assert (mgrd / "state" / "stopped").exists()


def test_a_command_that_fails_ends_the_walk_and_the_service(script: ModuleType, mgrd: Path) -> None:
    with pytest.raises(script.WalkError, match="`mgrd odd` exited 3"):
        script.walk(PAGE.replace(" code=3", ""), mgrd)
    assert (mgrd / "state" / "stopped").exists()


def test_every_command_of_the_guide_exists(script: ModuleType) -> None:
    guide = (ROOT / "docs" / "GUIDE.md").read_text()
    blocks = [script.block_of(found["options"], found["body"]) for found in script.WALK.finditer(guide)]
    named = {command.split()[1] for block in blocks for command in block.commands if command.startswith("mgrd ")}
    known = set(get_command(app).commands) | {"up", "down", "status"}  # type: ignore[attr-defined]
    assert named <= known and {"up", "submit", "events", "cancel", "resume", "compare", "down"} <= named
    assert guide.count("<!-- walk") == len(blocks)

"""Fixtures that several test folders share; what they need is imported when a test asks for it. And which tests run where, and first:
files that share what is slow to start go to one process, the longest before all others, those of milliseconds last."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from engine_room import EngineRoom

TOGETHER = {  # by file: the group that one process runs, in this order
    "test_killed_recipe": "recipe",
    "test_whole_recipe": "recipe",
    "test_interrupted_run": "run",
    "test_published_reward": "run",
    "test_paused_run": "run",
    "test_whole_run": "run",
    "test_checkpoint_commands": "run",
    "test_refusals": "run",
    "test_engine": "engine",
    "test_engine_parity": "engine",
}
FOLDERS = ("e2e", "integration", "parity", "unit")

os.environ["COLUMNS"] = "200"  # tables and messages are laid out alike wherever the tests run
# SIGINT comes ignored to a job in the background of a shell; the runs that tests start would inherit that, and not notice Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    named = list(TOGETHER)

    def place(item: pytest.Item) -> tuple[int, int]:
        stem = item.path.stem
        folder = next((i for i, name in enumerate(FOLDERS) if name in item.path.parts), len(FOLDERS))
        return (named.index(stem), 0) if stem in TOGETHER else (len(named), folder)

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`--dist loadfile`, but for files that go together. (xdist's own groups are lost on this pytest: node ids no longer take them.)"""
    from xdist.scheduler import LoadFileScheduling

    class ByGroup(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return TOGETHER.get(Path(file).stem, file)

    return ByGroup(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def engine_room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineRoom]:
    """A running engine with encoder, its reference model, clips and prompts; one for the whole session."""
    from engine_room import EngineRoom

    room = EngineRoom(tmp_path_factory.mktemp("engine_room"))
    yield room
    room.close()

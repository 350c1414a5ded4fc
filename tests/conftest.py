"""Fixtures that several test folders share; what they need is imported when a test asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from engine_room import EngineRoom


HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `-n 2 --dist loadgroup`: what shares a costly fixture stays in one process, else a file does."""
    for item in items:
        folder = item.path.relative_to(HERE).parts[0]
        room = "engine" if "engine_room" in getattr(item, "fixturenames", ()) else str(item.path)
        item.add_marker(pytest.mark.xdist_group("e2e" if folder == "e2e" else room))


@pytest.fixture(scope="session")
def engine_room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineRoom]:
    """A running engine with encoder, its reference model, clips and prompts; one for the whole session."""
    from engine_room import EngineRoom

    room = EngineRoom(tmp_path_factory.mktemp("engine_room"))
    yield room
    room.close()

"""Fixtures that several test folders share; what they need is imported when a test asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from engine_room import EngineRoom

os.environ["COLUMNS"] = "200"  # tables and messages are laid out alike wherever the tests run


@pytest.fixture(scope="session")
def engine_room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineRoom]:
    """A running engine with encoder, its reference model, clips and prompts; one for the whole session."""
    from engine_room import EngineRoom

    room = EngineRoom(tmp_path_factory.mktemp("engine_room"))
    yield room
    room.close()

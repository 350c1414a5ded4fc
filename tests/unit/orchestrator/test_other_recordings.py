"""A data set of other recordings than the base learnt from is said to be one."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.data_stage import note_other_recordings
from orchestrator.progress import ProgressView
from rollout import BASE_DIR

BANK = json.loads((BASE_DIR / "manifest.json").read_text())["data"]["bank"]


@pytest.mark.parametrize(("bank", "said"), [(BANK, False), ("0" * 64, True)])
def test_only_other_recordings_are_noted(tmp_path: Path, bank: str, said: bool) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"bank_sha256": bank}))
    out = io.StringIO()
    note_other_recordings(tmp_path, ProgressView(Console(file=out, width=300)))
    assert ("are not those the shipped base learnt from" in out.getvalue()) is said

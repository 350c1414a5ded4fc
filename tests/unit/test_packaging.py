"""The environment, the lock, the package and the commands around them agree with each other."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("orchestrator", "rewards", "rollout", "actor")
LOCK_LINES = (ROOT / "requirements" / "cpu.lock").read_text().splitlines()
PINS = dict(line.split("==") for line in LOCK_LINES if line and not line.startswith("#"))
OMITTED = {match[1] for line in LOCK_LINES if (match := re.match(r"# omitted: (\S+)", line))}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DECLARED = [Requirement(row) for row in PROJECT["dependencies"]]
EXTRAS = {name: [Requirement(row) for row in rows] for name, rows in PROJECT["optional-dependencies"].items()}


def setup(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    script = ROOT / "scripts" / arguments[0]
    return subprocess.run(
        [str(script), *arguments[1:]],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
        timeout=60,
    )


def imported() -> dict[str, Path]:
    """Third-party top-level modules that the packages' own code imports, each with a file that does."""
    found: dict[str, Path] = {}
    for file in (file for package in PACKAGES for file in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            found |= {name.split(".")[0]: file for name in names}
    return {name: file for name, file in found.items() if name not in sys.stdlib_module_names and name not in PACKAGES}


def test_lock_names_each_package_once_in_canonical_form() -> None:
    names = [line.split("==")[0] for line in LOCK_LINES if line and not line.startswith("#")]
    assert names == sorted(names)
    assert len(set(names)) == len(names)
    assert [name for name in names if name != canonicalize_name(name)] == []


def test_environment_is_the_one_of_the_lock() -> None:
    different = {}
    for name, version in PINS.items():
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed = "absent"
        if installed != version:
            different[name] = (version, installed)
    assert different == {}


def test_omitted_packages_are_absent() -> None:
    """A CUDA build of torchvision or torchaudio breaks the import of vllm, verl and transformers."""
    present = {canonicalize_name(distribution.name) for distribution in importlib.metadata.distributions()}
    assert present & OMITTED == set()
    assert "torchvision" in OMITTED


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_lock_is_closed_but_for_what_its_head_names(python: str) -> None:
    environment = default_environment() | {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
    missing = set()
    for name in PINS:
        for row in importlib.metadata.requires(name) or []:
            needed = Requirement(row)
            if needed.marker is None or needed.marker.evaluate(environment):
                target = canonicalize_name(needed.name)
                if target not in PINS and target not in OMITTED:
                    missing.add(f"{name} requires {needed}")
                elif target in PINS and not needed.specifier.contains(PINS[target], prereleases=True):
                    missing.add(f"{name} requires {needed}, the lock has {PINS[target]}")
    assert missing == set()


def test_torch_is_pinned_to_the_build_without_cuda() -> None:
    assert PINS["torch"].endswith("+cpu")
    assert not any(name.startswith("nvidia-") for name in PINS)


@pytest.mark.parametrize("needed", [*DECLARED, *EXTRAS["cpu"], *EXTRAS["dev"]], ids=str)
def test_declared_dependency_is_pinned_to_a_version_it_allows(needed: Requirement) -> None:
    assert needed.specifier.contains(PINS[canonicalize_name(needed.name)], prereleases=True)


def test_everything_imported_is_declared() -> None:
    provided = importlib.metadata.packages_distributions()
    declared = {canonicalize_name(needed.name) for rows in [DECLARED, *EXTRAS.values()] for needed in rows}
    undeclared = {
        module: str(file.relative_to(ROOT))
        for module, file in imported().items()
        if not declared & {canonicalize_name(name) for name in provided.get(module, [])}
    }
    assert undeclared == {}


def test_command_and_vllm_plugin_are_entry_points_that_load() -> None:
    scripts = importlib.metadata.entry_points(group="console_scripts", name="mgrd")
    assert callable(next(iter(scripts)).load())
    plugins = importlib.metadata.entry_points(group="vllm.general_plugins", name="mgrd_step_audio")
    assert callable(next(iter(plugins)).load())


def test_wheel_holds_every_file_of_the_packages(tmp_path: Path) -> None:
    """Configuration, weights and templates travel with the code; what git does not track stays behind."""
    listed = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout: nothing says which files belong to the packages")
    tracked = {name for name in listed.stdout.split("\n") if name and (ROOT / name).exists()}
    source = tmp_path / "source"
    for name in [*tracked, "pyproject.toml", "README.md", "LICENSE"]:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    built = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "-q",
            "--no-deps",
            "--no-build-isolation",
            "-w",
            str(tmp_path),
            str(source),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("mgrd-*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert tracked - inside == set()
    assert any(name.endswith("licenses/LICENSE") for name in inside)


def test_licence_is_apache_2() -> None:
    assert "Apache License\n                           Version 2.0" in (ROOT / "LICENSE").read_text()
    assert PROJECT["license"] == "Apache-2.0"


def test_make_alone_explains_both_commands() -> None:
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "make demo" in shown
    assert "make test" in shown


def test_interpreter_of_another_version_is_refused_with_what_was_found() -> None:
    found = setup("find_python.sh", PYTHON="sh python-of-nowhere")
    assert found.returncode == 1
    assert "needs Python 3.11 or 3.12" in found.stderr
    assert "make venv PYTHON=" in found.stderr


def test_interpreter_that_fits_is_taken() -> None:
    found = setup("find_python.sh", PYTHON=f"python-of-nowhere {sys.executable}")
    assert found.stdout.strip() == sys.executable


def test_environment_that_is_up_to_date_is_left_alone(tmp_path: Path) -> None:
    """And one whose set-up was interrupted, or whose lock is another, is not taken for ready."""
    check = [sys.executable, "-I", "-S", str(ROOT / "scripts" / "setup_venv.py"), "--venv", str(tmp_path), "--check"]

    def is_ready() -> bool:
        return subprocess.run(check, check=False).returncode == 0

    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import json, setup_venv; print(json.dumps(setup_venv.wanted()))"
    )
    stamp = subprocess.run(
        [sys.executable, "-c", program, str(ROOT / "scripts")], capture_output=True, text=True, check=True
    ).stdout
    assert not is_ready()
    (tmp_path / "mgrd-setup.json").write_text(stamp)
    assert is_ready()
    (tmp_path / "mgrd-setup-unfinished").touch()
    assert not is_ready()
    (tmp_path / "mgrd-setup-unfinished").unlink()
    (tmp_path / "mgrd-setup.json").write_text(json.dumps(json.loads(stamp) | {"lock": "another"}))
    assert not is_ready()


def test_folder_that_is_no_environment_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    made = setup("setup_venv.sh", str(tmp_path), PYTHON=sys.executable)
    assert made.returncode == 1
    assert "is not a virtual environment" in made.stderr
    assert (tmp_path / "thesis.txt").read_text() == "years of work"

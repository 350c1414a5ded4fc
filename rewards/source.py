"""What a reward function depends on: the modules beside it, helpers of `rewards`, data files, third-party distributions.

Neighbours: `registry` makes versions of the digest; `bundle` takes the same files when a function is published.
Invariants: the frame around functions (messages, registry) does not count; a data file counts when a string in the source names
it or its folder (`Path(__file__).with_name("lexicon.json")`, `FOLDER / "data"`); a distribution counts by its version.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from rewards.errors import RewardError
from rewards.module_text import ModuleText, read_module

FRAME = frozenset({"rewards", "rewards.errors", "rewards.functions", "rewards.messages", "rewards.registry"})
FIRST_PARTY = frozenset({"rewards", "rollout", "actor", "orchestrator"})
HERE = Path(__file__).resolve().parents[1]
CODE = frozenset({".py", ".pyc", ".so"})


@dataclass(slots=True)
class Sources:
    """root: folder that paths are relative to; own: the function's modules, by import name; helpers: modules of `rewards`;
    data, helper_data: files that they name, by path relative to root (to the folder of `rewards`); packages: third-party, top
    names."""

    root: Path
    module: str
    own: dict[str, Path] = field(default_factory=dict)
    helpers: dict[str, Path] = field(default_factory=dict)
    data: dict[str, Path] = field(default_factory=dict)
    helper_data: dict[str, Path] = field(default_factory=dict)
    packages: set[str] = field(default_factory=set)

    def modules(self) -> dict[str, Path]:
        """Files of all modules by path, relative to root, helpers to the folder that `rewards` lies in."""
        own = {path.relative_to(self.root).as_posix(): path for path in self.own.values()}
        return own | {path.relative_to(HERE).as_posix(): path for path in self.helpers.values()}

    def files(self) -> dict[str, Path]:
        """Data files, as `modules`."""
        return self.data | self.helper_data


def source_digest(module: str, file: str) -> str:
    """sha256 (hex) over all that `collect` finds. Raises RewardError if a source can't be read."""
    found = collect(module, file)
    lines = [f"{name} {_digest(path)}" for name, path in (found.modules() | found.files()).items()]
    lines += [f"{name} {version}" for name, version in distributions(found.packages).items()]
    return hashlib.sha256("".join(f"{line}\n" for line in sorted(lines)).encode()).hexdigest()


def collect(module: str, file: str) -> Sources:
    """Follows imports from the function's module. Raises RewardError if a source can't be read or is no Python."""
    path = Path(file).resolve()
    module = _import_name(module, path)
    found = Sources(_root(module, path), module)
    waiting = [(module, path)]
    while waiting:
        name, path = waiting.pop()
        is_helper = _top(name) == "rewards" and _top(module) != "rewards"
        modules, files = (found.helpers, found.helper_data) if is_helper else (found.own, found.data)
        if name in modules or name in FRAME:
            continue
        modules[name] = path
        text = read_module(name, path)
        files.update(_named_files(text, path.parent, HERE if is_helper else found.root))
        for imported in (*text.imports, *_lazy(text.imports)):
            origin = _origin(imported, found)
            if origin is not None:
                waiting.append((imported, origin))
            elif _is_third_party(imported, found):
                found.packages.add(_top(imported))
    return found


def distributions(packages: Iterable[str]) -> dict[str, str]:
    """Version by distribution name of third-party packages; "" for one that is not installed."""
    return dict(sorted(_distribution(package) for package in packages))


def installed_versions(names: Iterable[str]) -> dict[str, str]:
    """Installed version by distribution name; "" for one that is not installed."""
    return {name: dict([_distribution(name)]).get(name, "") for name in names}


@lru_cache(maxsize=1)
def handed_on() -> dict[str, str]:
    """Which module of `rewards` brings a name that the package hands on: {"split_response": "rewards.parse"}."""
    tree = ast.parse((HERE / "rewards" / "__init__.py").read_text(encoding="utf-8"))
    tables = [node.value for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "submod_attrs"]
    table: dict[str, list[str]] = ast.literal_eval(tables[0])
    return {name: f"rewards.{module}" for module, names in table.items() for name in names}


@lru_cache(maxsize=256)
def _distribution(package: str) -> tuple[str, str]:
    try:  # most distributions are called as their package, and the full table takes a second to make
        return package.replace("_", "-"), importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        names = sorted(importlib.metadata.packages_distributions().get(package, ()))
        return (names[0], importlib.metadata.version(names[0])) if names else (package, "")


def _top(name: str) -> str:
    return name.partition(".")[0]


def _import_name(module: str, file: Path) -> str:
    """The dotted name where the file lies as that name says, else the file's own name (scripts, loose files)."""
    parts = (*file.parent.parts, *(() if file.name == "__init__.py" else (file.stem,)))
    return module if "." in module and parts[-module.count(".") - 1 :] == tuple(module.split(".")) else file.stem


def _root(module: str, file: Path) -> Path:
    return file.parents[module.count(".") + (1 if file.name == "__init__.py" and "." in module else 0)]


def _origin(name: str, found: Sources) -> Path | None:
    """File of an imported module that belongs to the reward's own sources or to `rewards`, else None."""
    top = _top(name)
    if top in sys.stdlib_module_names:
        return None
    if top == "rewards":
        return _module_file(HERE, name)
    installed = str(found.root) in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    if top in FIRST_PARTY or ((installed or "." in found.module) and top != _top(found.module)):
        return None
    return _module_file(found.root, name)


def _module_file(root: Path, name: str) -> Path | None:
    place = root.joinpath(*name.split("."))
    for path in (place.with_name(place.name + ".py"), place / "__init__.py"):
        if path.is_file():
            return path
    return None


def _is_third_party(name: str, found: Sources) -> bool:
    top = _top(name)
    return top not in sys.stdlib_module_names and top not in FIRST_PARTY and _origin(top, found) is None


def _digest(path: Path) -> str:
    try:
        data = path.read_text(encoding="utf-8").encode() if path.suffix == ".py" else path.read_bytes()
    except (OSError, UnicodeDecodeError) as error:
        raise RewardError(f"{path}, which a reward depends on, can't be read: {error}") from error
    return hashlib.sha256(data).hexdigest()


def _lazy(imports: Iterable[str]) -> Iterator[str]:
    """The modules behind names that `rewards` hands on: `from rewards import split_response`."""
    for name in imports:
        package, _, attribute = name.rpartition(".")
        if package == "rewards" and attribute in handed_on():
            yield handed_on()[attribute]


def _named_files(text: ModuleText, folder: Path, root: Path) -> Iterator[tuple[str, Path]]:
    """Files beside a module that it names, one by one or by their folder; hidden files and caches do not count."""
    places = [folder / name for name in text.files]
    for name in text.folders:
        if (folder / name).is_dir():
            places += sorted((folder / name).rglob("*"))
    for place in places:
        whole = place.resolve()
        if whole.suffix in CODE or not whole.is_relative_to(root) or not whole.is_file():
            continue
        path = whole.relative_to(root)
        if not any(part.startswith((".", "__pycache__")) for part in path.parts):
            yield path.as_posix(), whole

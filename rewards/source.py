"""The source text a reward function depends on, as one digest.

Neighbours: `registry` makes versions of it; a scoring process computes it again and refuses another digest.
Invariants: covers the function's own module and, through imports, the modules beside it (same package, or same folder for a
single file) and the helpers in `rewards`; not the frame around functions (messages, registry), not third-party packages.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

from rewards.errors import RewardError

FRAME = frozenset({"rewards", "rewards.errors", "rewards.functions", "rewards.messages", "rewards.registry"})


def source_digest(module: str, file: str) -> str:
    """sha256 (hex) over the sources of `module` and what it imports from nearby. Raises RewardError if one can't be read."""
    found: dict[str, str] = {}
    waiting = [(module, file)]
    while waiting:
        name, path = waiting.pop()
        if name in found:
            continue
        text = _read(name, path)
        found[name] = hashlib.sha256(text.encode()).hexdigest()
        for imported in sorted(_imports(text, name, path)):
            if imported not in FRAME and imported not in found:
                origin = _origin(imported, module, file)
                if origin is not None:
                    waiting.append((imported, origin))
    # The function's own module is named by its file: it may run as a script here and as a module elsewhere.
    found[Path(file).stem] = found.pop(module)
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(found.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _read(name: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RewardError(
            f"the source of module {name!r} can't be read from {path}: {error}; a reward lives in a .py file"
        ) from error


def _imports(text: str, name: str, path: str) -> Iterator[str]:
    """Absolute names of everything that may be an imported module."""
    package = name if path.endswith("__init__.py") else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(text, path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            if node.level:
                if not package:
                    continue
                base = importlib.util.resolve_name(base, package)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names if alias.name != "*")


def _origin(name: str, module: str, file: str) -> str | None:
    """File of an imported module if it belongs to the reward's own sources, else None."""
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names:
        return None
    if top not in ("rewards", module.partition(".")[0]):
        spec = importlib.util.find_spec(top)
        if spec is None or spec.origin is None:
            return None
        place = Path(spec.origin).parent
        if (place.parent if spec.submodule_search_locations else place) != Path(file).parent:
            return None
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:  # `name` is an attribute of a module, not a module
        return None
    return spec.origin if spec is not None and spec.origin and spec.origin.endswith(".py") else None

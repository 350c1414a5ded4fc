"""What the text of one module says that it needs: imports, and files or folders that it names.

Neighbours: `source` follows both. Invariants: nothing is run; the same text is read once a process, since rewards share helpers.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from rewards.errors import RewardError

FILE_NAME = re.compile(r"[\w./-]{1,100}\.[A-Za-z0-9]{1,8}")
FOLDER_NAME = re.compile(r"[\w-]{1,60}(/[\w-]{1,60}){0,4}")
JOINING = frozenset(
    {"Path", "joinpath", "with_name", "join", "files"}
)  # calls whose text arguments are parts of a path


@dataclass(frozen=True, slots=True)
class ModuleText:
    """imports: absolute names of everything that may be an imported module, packages around each included; files: text constants
    that may name a file; folders: those joined to a path, which may name a folder."""

    imports: tuple[str, ...]
    files: tuple[str, ...]
    folders: tuple[str, ...]


def read_module(name: str, path: Path) -> ModuleText:
    """Raises RewardError for a file that can't be read or is no Python."""
    try:
        return _read(name, path.name == "__init__.py", path.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError, ImportError) as error:  # ImportError: relative beyond its package
        raise RewardError(
            f"the source of module {name!r} can't be read from {path}: {error}; a reward lives in a .py file"
        ) from error


@lru_cache(maxsize=512)
def _read(name: str, is_package: bool, text: str) -> ModuleText:
    nodes = list(ast.walk(ast.parse(text)))
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return ModuleText(
        tuple(dict.fromkeys(_imports(nodes, name if is_package else name.rpartition(".")[0]))),
        tuple(sorted(text for text in texts if FILE_NAME.fullmatch(text))),
        tuple(sorted({text for text in _joined(nodes) if FOLDER_NAME.fullmatch(text)})),
    )


def _imports(nodes: list[ast.AST], package: str) -> Iterator[str]:
    named = [package] if package else []
    for node in nodes:
        if isinstance(node, ast.Import):
            named += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (package or not node.level):
            base = "." * node.level + (node.module or "")
            if node.level:
                base = importlib.util.resolve_name(base, package)
            named += [base, *(f"{base}.{alias.name}" for alias in node.names if alias.name != "*")]
    for whole in named:
        parts = whole.split(".")
        yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def _joined(nodes: list[ast.AST]) -> Iterator[str]:
    """Text joined to a path: `FOLDER / "data"`, `FOLDER.joinpath("data")`."""
    for node in nodes:
        parts: list[ast.expr] = []
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            parts = [node.right]
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            parts = node.args if called in JOINING else []
        yield from (part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str))

"""Runs the source of a bundle beside other versions of itself.

Every bundle gets a package name of its own; what its modules import from each other, and from the helpers of `rewards` that
were published with them, is looked for in the bundle first. So two versions of a reward, each with its own `helper.py`, live in
one process, and an upgrade of mgrd changes neither. Neighbours: `registry` calls this in scoring processes,
`lab` when a file is made a bundle. Invariant: what runs is the text that was compared with the hash, not what lies on disk.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from rewards.bundle import Bundle
from rewards.errors import RewardError
from rewards.registry import BUNDLE_PREFIX, RewardFunction, bundled
from rewards.source import handed_on


def import_bundle(bundle: Bundle, folder: Path) -> dict[str, RewardFunction]:
    """The functions that a bundle registers, by name; folder: where its files lie (`__file__`, data).

    Raises RewardError when its source can't be imported, whatever it raises.
    """
    package = BUNDLE_PREFIX + bundle.hash.removeprefix("sha256:")[:32]
    if package not in sys.modules:
        finder = BundleFinder(package, bundle, folder)
        sys.meta_path.insert(0, finder)
        sys.modules[package] = _package(package, folder)
    try:
        importlib.import_module(f"{package}.{bundle.module}")
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # foreign code: even SystemExit is only a module that can't be imported
        forget(bundle)
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise RewardError(f"importing {folder / (bundle.module + '.py')} raised {what}") from error
    return bundled(package)


def forget(bundle: Bundle) -> None:
    """Takes a bundle's modules out of this process."""
    package = BUNDLE_PREFIX + bundle.hash.removeprefix("sha256:")[:32]
    sys.meta_path[:] = [f for f in sys.meta_path if not (isinstance(f, BundleFinder) and f.package == package)]
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        del sys.modules[name]
    bundled(package).clear()


class BundleFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds and runs the modules of one bundle under its package name."""

    def __init__(self, package: str, bundle: Bundle, folder: Path) -> None:
        self.package, self.folder = package, folder
        self.sources = bundle.sources
        self._builtins = dict(vars(builtins)) | {"__import__": self._import}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith(f"{self.package}."):
            return None
        place = fullname.removeprefix(f"{self.package}.").replace(".", "/")
        for file in (f"{place}.py", f"{place}/__init__.py"):
            if file in self.sources:
                spec = importlib.machinery.ModuleSpec(fullname, self, origin=str(self.folder / file))
                spec.has_location = True
                spec.loader_state = file
                if file.endswith("__init__.py"):
                    spec.submodule_search_locations = [str(self.folder / place)]
                return spec
        if any(path.startswith(f"{place}/") for path in self.sources):  # a folder without __init__.py
            spec = importlib.machinery.ModuleSpec(fullname, self)
            spec.submodule_search_locations = [str(self.folder / place)]
            return spec
        return None

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        file = module.__spec__.loader_state
        if file is None:
            module.__dict__["__getattr__"] = partial(self._installed, module.__name__.removeprefix(f"{self.package}."))
            return
        module.__dict__["__builtins__"] = self._builtins
        code = compile(self.sources[file], str(self.folder / file), "exec", dont_inherit=True)
        exec(code, module.__dict__)

    def _import(
        self,
        name: str,
        names: Mapping[str, Any] | None = None,
        local: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """`import` as the bundle's modules see it."""
        if level or not self._holds(name):
            return builtins.__import__(name, names, local, fromlist or (), level)
        own = f"{self.package}.{name}"
        if not fromlist:
            importlib.import_module(own)
            return sys.modules[f"{self.package}.{name.partition('.')[0]}"]
        return builtins.__import__(own, names, local, fromlist, 0)

    def _holds(self, name: str) -> bool:
        """Whether the bundle has this module, or modules below it."""
        place = name.replace(".", "/")
        return any(
            path in (f"{place}.py", f"{place}/__init__.py") or path.startswith(f"{place}/") for path in self.sources
        )

    def _installed(self, name: str, attribute: str) -> Any:
        """What a folder of the bundle lacks comes from the installed package of that name: `from rewards import Sample`."""
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        origin = handed_on().get(attribute) if name == "rewards" else None
        if origin is not None and self._holds(origin):
            return getattr(importlib.import_module(f"{self.package}.{origin}"), attribute)
        if self._holds(f"{name}.{attribute}"):
            return importlib.import_module(f"{self.package}.{name}.{attribute}")
        return getattr(importlib.import_module(name), attribute)


def _package(package: str, folder: Path) -> ModuleType:
    module = ModuleType(package)
    module.__path__ = [str(folder)]
    return module

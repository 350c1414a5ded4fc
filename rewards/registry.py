"""Reward functions by name, each version a content hash of its source and parameters.

    @reward("short_reply")
    def short_reply(sample: Sample, *, characters: int = 40) -> float:
        return float(len(sample.reply) <= characters)

Neighbours: `functions` registers the shipped ones, `published` keeps others; `scorer` resolves a run's terms here, a scoring
process loads them again. Invariants: among what is installed a name belongs to one function; the same version string means the
same source and the same parameters; published source is never run in the process that resolves it.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rewards.bundle import Bundle
from rewards.bundle_files import read_bundle
from rewards.errors import RewardError
from rewards.messages import RewardTerm
from rewards.source import source_digest

if TYPE_CHECKING:
    from rewards.published import PublishedStore

if TYPE_CHECKING:
    from rewards.published import PublishedStore

NAME = re.compile(r"[a-z][a-z0-9_]*")
BUNDLE_PREFIX = "published_"  # of the package that a bundle's modules are in
BUNDLE_PREFIX = "published_"  # of the package that a bundle's modules are in
PLUGIN_GROUP = "mgrd.rewards"  # entry points: a module that registers on import, or anything in one
SHIPPED = (
    "rewards.functions.answer",
    "rewards.functions.think",
    "rewards.functions.mathematics",
    "rewards.functions.repetition",
    "rewards.functions.language",
    "rewards.functions.grounding",
    "rewards.functions.consistency",
    "rewards.functions.cognition",
    "rewards.endpoints.judge",
    "rewards.endpoints.remote",
)
Call = TypeVar("Call", bound=Callable[..., Any])
Check = Callable[..., None]


@dataclass(frozen=True, slots=True)
class RewardFunction:
    """A registered function; what it may be and return: `reward`."""

    name: str
    call: Callable[..., Any]
    module: str
    file: str
    version_note: str = ""
    check: Check | None = None
    batch: int = 0
    network: bool = False
    deterministic: bool = True
    secrets: tuple[str, ...] = ()
    endpoint: bool = False

    def bind(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters with defaults filled in. Raises RewardError for an unknown, missing or refused one."""
        signature = inspect.signature(self.call)
        try:
            bound = signature.bind(None, **parameters)
        except TypeError as error:
            known = ", ".join(list(signature.parameters)[1:]) or "none"
            raise RewardError(f"reward {self.name!r}: {error}; its parameters: {known}") from error
        bound.apply_defaults()
        values = {name: bound.arguments[name] for name in list(signature.parameters)[1:]}
        if self.check is not None:
            try:
                self.check(**values)
            except (ValueError, TypeError) as error:
                raise RewardError(f"reward {self.name!r} refuses its parameters {values}: {error}") from error
        return values

    def version(self, parameters: Mapping[str, Any]) -> str:
        """`sha256:<hex>` over name, source and parameters (as `bind` returns them)."""
        try:
            text = json.dumps([self.name, source_digest(self.module, self.file), dict(parameters)], sort_keys=True)
        except TypeError as error:
            raise RewardError(f"reward {self.name!r}: parameters must be plain JSON values: {error}") from error
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ResolvedTerm:
    """A term pinned to what runs: where the function lives, its bound parameters, its version.

    network .. batch: as declared with `reward`; published: content hash of the published bundle it comes from ("" installed);
    function: the registered name where it is not the term's own (a remote reward published under a name of its own).
    """

    name: str
    module: str
    file: str
    parameters: dict[str, Any]
    version: str
    network: bool = False
    deterministic: bool = True
    secrets: tuple[str, ...] = ()
    endpoint: bool = False
    batch: int = 0
    published: str = ""
    function: str = ""


_functions: dict[str, RewardFunction] = {}
_bundled: dict[str, dict[str, RewardFunction]] = {}  # by package of a bundle
_plugins: dict[str, str] = {}  # entry points that were tried: name -> what went wrong, or nothing
log = logging.getLogger(__name__)


def reward(
    name: str,
    *,
    version_note: str = "",
    check: Check | None = None,
    batch: int = 0,
    network: bool = False,
    deterministic: bool = True,
    secrets: Sequence[str] = (),
    endpoint: bool = False,
) -> Callable[[Call], Call]:
    """Registers `call(sample, **parameters)` under `name`, which returns the score, a Verdict, a dict of scores with one under
    "score" (the others are reported beside it), or None for "can't be told"; raising does the same and keeps the reason.

    `async def` works, too. batch: a plain `def` gets a list of at most this many samples and returns a list as long;
    network: whether it may open connections; deterministic: whether its verdicts may be cached; secrets: names of environment
    variables it needs; check(**parameters) raises ValueError for bad ones; endpoint: shipped code that asks a server, where
    `call(secrets, **parameters)` makes the object that scores (`rewards.endpoints`).
    Raises RewardError for a malformed name, one that another file holds, or a batch size that can't be.
    """
    if not NAME.fullmatch(name):
        raise RewardError(f"a reward's name is lower case letters, digits and underscores, not {name!r}")

    def register(call: Call) -> Call:
        if batch < 0 or (batch and inspect.iscoroutinefunction(call)):
            raise RewardError(f"reward {name!r}: batch={batch} needs a plain `def` and a size of 1 or more")
        file = str(Path(call.__code__.co_filename).resolve())
        package = call.__module__.partition(".")[0]
        place = bundled(package) if package.startswith(BUNDLE_PREFIX) else _functions
        held = place.get(name)
        if held is not None and held.file != file:
            raise RewardError(f"reward {name!r} of {file} is already registered by {held.file}; choose another name")
        place[name] = RewardFunction(
            name,
            call,
            call.__module__,
            file,
            version_note,
            check,
            batch,
            network,
            deterministic,
            tuple(secrets),
            endpoint,
        )
        return call

    return register


def bundled(package: str) -> dict[str, RewardFunction]:
    """What the modules of a bundle have registered so far, by name."""
    return _bundled.setdefault(package, {})


def registered() -> tuple[RewardFunction, ...]:
    """All registered functions, the shipped ones and those of installed plugins included, by name."""
    for module in SHIPPED:
        importlib.import_module(module)
    broken_plugins()
    return tuple(_functions[name] for name in sorted(_functions))


def broken_plugins() -> dict[str, str]:
    """What went wrong with installed plugins (entry points of group `mgrd.rewards`), by name; each is tried once a process."""
    for point in importlib.metadata.entry_points(group=PLUGIN_GROUP):
        if point.name not in _plugins:
            _plugins[point.name] = _plugin_problem(point)
    return {name: problem for name, problem in _plugins.items() if problem}


def _plugin_problem(point: importlib.metadata.EntryPoint) -> str:
    try:
        point.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # foreign code: one broken plugin must not take the others with it
        where = f"{point.value} of {point.dist.name} {point.dist.version}" if point.dist else point.value
        log.warning("the reward plugin %r can't be loaded", point.name, exc_info=True)
        return f"the plugin {point.name!r} ({where}) can't be loaded: {type(error).__name__}: {error}"
    return ""


def get(name: str) -> RewardFunction:
    """Raises RewardError for an unknown name, with the nearest one and the plugins that could not be loaded."""
    known = {function.name: function for function in registered()}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        raise RewardError("; ".join([f"unknown reward {name!r}; {hint}", *broken_plugins().values()]))
    return known[name]


def resolve(term: RewardTerm, store: PublishedStore | None = None, *, resumed: bool = False) -> ResolvedTerm:
    """The installed function, or the version that the term names: a hash, the first 12 digits of one or more, or a tag.

    resumed: a run that goes on may use a version that was retired meanwhile. Raises RewardError for an unknown function or
    version, bad parameters, or libraries with which a published version might give other verdicts.
    """
    if not term.version:
        return _installed(term)
    if store is None:
        found = _installed(term)
        if len(term.version) >= 12 and found.version.removeprefix("sha256:").startswith(
            term.version.removeprefix("sha256:")
        ):
            return found
        raise RewardError(
            f"reward {term.name!r} is pinned to {term.version}; installed is {found.version}, and no registry is given to "
            "look the other one up in: set MGRD_REDIS_URL, or drop the version"
        )
    digest = store.find(term.version, name=term.name, retired=resumed)
    bundle = store.get(digest)
    return resolve_bundle(term, bundle, store.materialise(bundle))


def resolve_bundle(term: RewardTerm, bundle: Bundle, file: Path) -> ResolvedTerm:
    """A term that runs a bundle which lies in `file`. Its source is not run here. Raises RewardError."""
    parameters = bundle.bind(term.parameters)
    if bundle.kind == "remote":
        return replace(_installed(RewardTerm(bundle.function, 1.0, "any", parameters)), name=term.name,
                       function=bundle.function, published=bundle.hash)  # fmt: skip
    bundle.check_libraries()
    return ResolvedTerm(
        term.name,
        bundle.module,
        str(file),
        parameters,
        bundle.version(parameters),
        network=bundle.network,
        deterministic=bundle.deterministic,
        secrets=bundle.secrets,
        batch=bundle.batch,
        published=bundle.hash,
        function=bundle.function,
    )


def _installed(term: RewardTerm) -> ResolvedTerm:
    function = get(term.name)
    parameters = function.bind(term.parameters)
    return ResolvedTerm(
        term.name,
        function.module,
        function.file,
        parameters,
        function.version(parameters),
        network=function.network,
        deterministic=function.deterministic,
        secrets=function.secrets,
        endpoint=function.endpoint,
        batch=function.batch,
    )


def load(term: ResolvedTerm) -> RewardFunction:
    """The function of a resolved term, imported in this process. Raises RewardError if its source is no longer the pinned one."""
    if term.published and not term.endpoint:
        return _load_published(term)
    name = term.function or term.name
    if name not in _functions:
        _import(term.module, term.file)
    function = _functions.get(name)
    if function is None:
        raise RewardError(f"module {term.module!r} ({term.file}) no longer registers the reward {name!r}")
    found = function.version(term.parameters)
    if found != term.version:
        raise RewardError(
            f"reward {term.name!r} is pinned to {term.version}, but {function.file} now gives {found}; "
            "restore the file or start a new run"
        )
    return function


def _load_published(term: ResolvedTerm) -> RewardFunction:
    from rewards.bundle_import import import_bundle

    file = Path(term.file)
    bundle = read_bundle(file, term.published)
    bundle.check_libraries()
    function = import_bundle(bundle, file.parent).get(bundle.function)
    if function is None:
        raise RewardError(f"the published reward {term.published} no longer registers {bundle.function!r}")
    found = bundle.version(function.bind(term.parameters))
    if found != term.version:
        raise RewardError(f"reward {term.name!r} is pinned to {term.version}, but {file} gives {found}")
    return function


def _import(module: str, file: str) -> None:
    """By name where the name leads to that file, else (scripts, loose files) by file."""
    if module != "__main__":
        try:
            spec = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            spec = None
        if spec is not None and spec.origin is not None and Path(spec.origin).resolve() == Path(file):
            importlib.import_module(module)
            return
    name = f"reward_file_{Path(file).stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise RewardError(f"the reward file {file} can't be imported; it must be a .py file")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded
    spec.loader.exec_module(loaded)

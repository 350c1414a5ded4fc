"""A reward function with all that its verdicts depend on, as one value under one content hash.

Neighbours: `published` keeps bundles in Redis, `bundle_files` on disk, `bundle_import` runs them.
Invariants: equal content, equal hash, on any machine; what is in the hash decides the verdict: notes, tags and dates are not in
it, the helpers of `rewards` that the function uses are, with their source; a bundle that was meant for other libraries than the
installed ones is refused, never run.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from rewards.errors import RewardError
from rewards.source import Sources, collect, distributions, installed_versions

HASH = re.compile(r"sha256:[0-9a-f]{64}")
MAX_BYTES = 16 << 20  # of a bundle: it is held in Redis and read by every scoring process


@dataclass(frozen=True, slots=True)
class Bundle:
    """name: what users call it; kind: `function` (source in the bundle) or `remote` (parameters hold the URL).

    function: registered name; module: import name of its module in `sources`; sources, data: text, and base64 of files, by
    path; dependencies: version by distribution; parameters: all, defaults filled in;
    golden: cases as JSON lines; clips: sha256 of the cases' recordings by path; the rest as declared with `reward`.
    """

    name: str
    kind: Literal["function", "remote"]
    function: str
    module: str = ""
    sources: dict[str, str] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    dependencies: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    golden: tuple[str, ...] = ()
    clips: dict[str, str] = field(default_factory=dict)
    batch: int = 0
    network: bool = False
    deterministic: bool = True
    secrets: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """Canonical JSON. Raises RewardError for parameters that are no plain JSON values."""
        try:
            return _encoder.encode(self)
        except (TypeError, ValueError) as error:
            raise RewardError(f"reward {self.name!r}: parameters must be plain JSON values: {error}") from error

    @property
    def hash(self) -> str:
        """`sha256:<hex>` over `encode`."""
        return "sha256:" + hashlib.sha256(self.encode()).hexdigest()

    def files(self) -> dict[str, bytes]:
        """Sources and data files by path."""
        return {path: text.encode() for path, text in self.sources.items()} | {
            path: base64.b64decode(text) for path, text in self.data.items()
        }

    def bind(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """The published parameters with some replaced. Raises RewardError for an unknown one."""
        unknown = sorted(set(overrides) - set(self.parameters))
        if unknown:
            known = ", ".join(self.parameters) or "none"
            raise RewardError(f"reward {self.name!r} has no parameter {unknown[0]!r}; its parameters: {known}")
        return self.parameters | dict(overrides)

    def version(self, parameters: Mapping[str, Any]) -> str:
        """The bundle's hash for its own parameters, else a hash over both."""
        if dict(parameters) == self.parameters:
            return self.hash
        try:
            text = msgspec.json.encode([self.hash, dict(parameters)], order="deterministic")
        except (TypeError, ValueError) as error:
            raise RewardError(f"reward {self.name!r}: parameters must be plain JSON values: {error}") from error
        return "sha256:" + hashlib.sha256(text).hexdigest()

    def check_libraries(self) -> None:
        """Raises RewardError when the installed libraries are not those that the bundle was published with."""
        found = installed_versions(self.dependencies)
        for name, wanted in self.dependencies.items():
            if found[name] != wanted:
                raise RewardError(
                    f"reward {self.name!r} ({self.hash[:19]}) was published with {name} {wanted or 'absent'}, here it is "
                    f"{found[name] or 'not installed'}: its verdicts could differ; install that version, or register the "
                    "reward again"
                )


_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder(Bundle)


def decode_bundle(data: bytes, expected: str, origin: str) -> Bundle:
    """Raises RewardError, naming `origin`, for what is no bundle or has another hash than expected."""
    try:
        bundle = _decoder.decode(data)
    except (msgspec.DecodeError, ValueError) as error:
        raise RewardError(f"{origin} is no published reward: {error}") from error
    if bundle.hash != expected:
        raise RewardError(f"{origin} should be {expected} but its content gives {bundle.hash}; it was changed")
    return bundle


def from_source(
    name: str,
    module: str,
    file: str,
    *,
    parameters: Mapping[str, Any],
    golden: Sequence[str] = (),
    clips: Mapping[str, str] | None = None,
    **declared: Any,
) -> Bundle:
    """The bundle of a function in a file. Raises RewardError when a source can't be read.

    declared: batch, network, deterministic, secrets of the function.
    """
    found = collect(module, file)
    _check_size(name, found)
    return Bundle(
        name,
        "function",
        name,
        module=found.module,
        sources={path: place.read_text(encoding="utf-8") for path, place in found.modules().items()},
        data={path: base64.b64encode(place.read_bytes()).decode() for path, place in found.files().items()},
        dependencies=distributions(found.packages),
        parameters=dict(parameters),
        golden=tuple(golden),
        clips=dict(clips or {}),
        **declared,
    )


def _check_size(name: str, found: Sources) -> None:
    sizes = {path: path.stat().st_size for path in (found.modules() | found.files()).values()}
    if sum(sizes.values()) > MAX_BYTES:
        largest = max(sizes, key=lambda path: sizes[path])
        raise RewardError(
            f"reward {name!r} depends on {sum(sizes.values()) >> 20} MB of files, the limit is {MAX_BYTES >> 20} MB; "
            f"the largest is {largest}: keep it elsewhere and load it by path"
        )

"""Rewards tried out: on golden cases, on stored trajectories, one version against another, before a run depends on them.

Neighbours: `orchestrator.rewards_cli` shows the results; `scorer` does the scoring, in the sandbox; `bundle` makes a file one
value. Invariants: a file is tried as the very bundle that would be published; nothing is published whose golden cases miss.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rewards import registry
from rewards.bundle import Bundle, from_source
from rewards.bundle_files import materialise
from rewards.bundle_import import forget, import_bundle
from rewards.clips import recordings
from rewards.comparison import Difference, compare
from rewards.errors import RewardError
from rewards.golden import GoldenCase, load_cases, parse_cases
from rewards.messages import RewardSpec, RewardTerm, Sample, Verdict
from rewards.published import PublishedStore
from rewards.registry import ResolvedTerm, resolve_bundle
from rewards.sandbox_wire import Limits
from rewards.scorer import ResolvedReward, Scorer

PART_SAMPLES = 128  # scored between two steps of a progress bar
LIMITS = Limits(timeout_s=10.0)
SHIPPED_CASES = Path(__file__).parent / "functions" / "golden"
Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Subject:
    """A reward as a user names it: an installed function (no bundle), or a bundle in its folder."""

    reference: str
    name: str
    bundle: Bundle | None = None
    file: Path | None = None
    parameters: dict[str, Any] = field(default_factory=dict)

    def resolve(self, parameters: Mapping[str, Any] | None = None) -> ResolvedTerm:
        """With some parameters replaced. Raises RewardError."""
        term = RewardTerm(self.name, 1.0, "any", self.parameters | dict(parameters or {}))
        if self.bundle is None or self.file is None:
            return registry.resolve(term)
        return resolve_bundle(term, self.bundle, self.file)


@dataclass(frozen=True, slots=True)
class CaseResult:
    """A golden case as it came out; seconds: wall time of the function; score None: invalid for that reason."""

    case: str
    expected: str
    score: float | None
    reason: str
    seconds: float
    passed: bool

    @property
    def got(self) -> str:
        return f"invalid: {self.reason}" if self.score is None else f"{self.score:g}"


def is_file_reference(reference: str) -> bool:
    """Whether it is FILE.py:FUNCTION."""
    return reference.rpartition(":")[0].endswith(".py")


def needs_store(reference: str) -> bool:
    """Whether it names a published version: a hash, NAME@TAG or NAME@HASH."""
    return not is_file_reference(reference) and ("@" in reference or reference.startswith("sha256:"))


def pick(
    reference: str, *, store: PublishedStore | None, folder: Path, parameters: Mapping[str, Any] | None = None
) -> Subject:
    """FILE.py:FUNCTION, an installed name, sha256:…, NAME@TAG or NAME@sha256:…; folder: where bundles are materialised.

    Raises RewardError for one that can't be found or can't be imported.
    """
    given = dict(parameters or {})
    if is_file_reference(reference):
        bundle = bundle_file(reference, given)
        return Subject(reference, bundle.name, bundle, materialise(bundle, folder))
    if not needs_store(reference):
        registry.get(reference).bind(given)
        return Subject(reference, reference, parameters=given)
    if store is None:
        raise RewardError(f"{reference} is a published version, and no registry is open to look it up in")
    name, _, version = reference.rpartition("@")
    bundle = store.get(store.find(version, name=name, retired=True))
    bundle.bind(given)
    return Subject(reference, bundle.name, bundle, store.materialise(bundle), given)


def bundle_file(reference: str, parameters: Mapping[str, Any] | None = None, golden: Path | None = None) -> Bundle:
    """The bundle of FILE.py:FUNCTION. The file is run once, here, to learn what it declares.

    Raises RewardError when file or function is missing, the import fails, or a parameter is bad.
    """
    path_text, _, wanted = reference.rpartition(":")
    path = Path(path_text).absolute()
    if not path.is_file():
        raise RewardError(f"there is no file {path}; write FILE.py:FUNCTION")
    draft = from_source("draft", path.stem, str(path), parameters={})
    try:
        with TemporaryDirectory(prefix="mgrd-reward-") as folder:
            functions = import_bundle(draft, materialise(draft, Path(folder)).parent)
        function = _chosen(functions, wanted, path)
        lines, clips = golden_lines(golden) if golden else ((), {})
        return replace(
            draft,
            name=function.name,
            function=function.name,
            parameters=_plain(function.name, function.bind(parameters or {})),
            golden=lines,
            clips=clips,
            batch=function.batch,
            network=function.network,
            deterministic=function.deterministic,
            secrets=function.secrets,
        )
    finally:
        forget(draft)


def _chosen(functions: Mapping[str, registry.RewardFunction], wanted: str, path: Path) -> registry.RewardFunction:
    for function in functions.values():
        if wanted in (function.name, function.call.__name__):
            if function.endpoint:
                raise RewardError(f"{path}: {wanted} is an endpoint; only shipped code may be one, use network=True")
            return function
    known = ", ".join(functions) or "none; decorate it with @reward(NAME)"
    raise RewardError(f"{path} registers no reward {wanted!r}; it registers: {known}")


def _plain(name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """As they come back from Redis. Raises RewardError for what is no JSON."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(parameters), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise RewardError(f"reward {name!r}: parameters must be plain JSON values: {error}") from error
    return plain


def remote_bundle(name: str, url: str, parameters: Mapping[str, Any] | None = None) -> Bundle:
    """A reward that a server gives, under a name of its own. Raises RewardError for a bad name or parameter."""
    if not registry.NAME.fullmatch(name):
        raise RewardError(f"a reward's name is lower case letters, digits and underscores, not {name!r}")
    function = registry.get("remote")
    bound = _plain(name, function.bind(dict(parameters or {}) | {"url": url}))
    return Bundle(
        name,
        "remote",
        function.name,
        parameters=bound,
        network=True,
        deterministic=function.deterministic,
        secrets=function.secrets,
    )


def golden_lines(path: Path) -> tuple[tuple[str, ...], dict[str, str]]:
    """Cases as they are published, one canonical line each, and the digests of their recordings. Raises RewardError."""
    load_cases(path)
    cases = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    clips = {clip["path"] for case in cases for _, clip in recordings(case["question"])}
    try:
        digests = {clip: hashlib.sha256((path.parent / clip).read_bytes()).hexdigest() for clip in sorted(clips)}
    except OSError as error:
        raise RewardError(f"a recording of the golden cases {path} can't be read: {error}") from error
    return tuple(json.dumps(case, sort_keys=True, ensure_ascii=False) for case in cases), digests


def golden_cases(subject: Subject, path: Path | None) -> list[GoldenCase]:
    """Cases of a file, else those published with the subject or shipped with it. Raises RewardError when there are none."""
    if path is not None:
        return load_cases(path)
    if subject.bundle is not None and subject.bundle.golden:
        _check_clips(subject.bundle, Path.cwd())
        return parse_cases("\n".join(subject.bundle.golden), f"the golden cases of {subject.reference}", Path.cwd())
    shipped = SHIPPED_CASES / f"{subject.name}.jsonl"
    if subject.bundle is None and shipped.is_file():
        return load_cases(shipped)
    raise RewardError(f"{subject.reference} brings no golden cases; name a file of them with --golden")


def _check_clips(bundle: Bundle, folder: Path) -> None:
    """Recordings are not published, their digests are. Raises RewardError when one is not the one that the case was made with."""
    for clip, digest in bundle.clips.items():
        path = folder / clip
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            what = "is another one here" if path.is_file() else "is not here"
            raise RewardError(
                f"the recording {path} of a golden case of {bundle.name!r} {what}; run this where the cases are, or name their "
                "file with --golden"
            )


def run_cases(
    subject: Subject, cases: Sequence[GoldenCase], *, limits: Limits = LIMITS, advance: Advance | None = None
) -> list[CaseResult]:
    """Every case in the sandbox, in order; cases with parameters of their own get a process of their own.

    Raises RewardError when the function can't be loaded or a parameter is bad.
    """
    groups: dict[str, list[int]] = {}
    for index, case in enumerate(cases):
        groups.setdefault(json.dumps(case.parameters, sort_keys=True), []).append(index)
    results: dict[int, CaseResult] = {}
    for key, members in groups.items():
        with open_scorer([(subject.resolve(json.loads(key)), 1.0)], limits) as scorer:
            verdicts = score(scorer, [cases[i].sample for i in members], advance)
            results.update({i: _result(cases[i], verdict) for i, verdict in zip(members, verdicts, strict=True)})
    return [results[i] for i in range(len(cases))]


def _result(case: GoldenCase, verdict: Verdict) -> CaseResult:
    seconds = sum(verdict.seconds.values())
    passed = case.holds(verdict.score, verdict.reason)
    return CaseResult(case.name, case.wanted, verdict.score, verdict.reason, seconds, passed)


def open_scorer(terms: Sequence[tuple[ResolvedTerm, float]], limits: Limits = LIMITS) -> Scorer:
    """A scorer that is not started yet; every term counts for any question, with its weight. Raises RewardError."""
    names = [term.name for term, _ in terms]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RewardError(
            f"the reward {twice[0]!r} is named twice; compare two versions of it with `mgrd rewards diff`"
        )
    spec = RewardSpec(
        tuple(RewardTerm(term.name, weight, "any", term.parameters) for term, weight in terms),
        timeout_s=limits.timeout_s,
        memory_mb=limits.memory_mb,
        workers=1,
        cpu_s=limits.cpu_s,
        open_files=limits.open_files,
        threads=limits.threads,
    )
    return Scorer(ResolvedReward(spec, tuple(term for term, _ in terms), tuple(path for path in sys.path if path)))


def score(scorer: Scorer, samples: Iterable[Sample], advance: Advance | None = None) -> Iterator[Verdict]:
    """A verdict a sample, in order, in parts; advance: called with the number of samples just done."""
    for part in _parts(samples):
        yield from scorer.score(part)
        if advance:
            advance(len(part))


def diff(
    a: Subject,
    b: Subject,
    samples: Iterable[Sample],
    *,
    limits: Limits = LIMITS,
    keep: int = 20,
    advance: Advance | None = None,
) -> Difference:
    """Both versions on the same samples, each in a sandbox of its own. Raises RewardError when one can't be loaded."""
    with open_scorer([(a.resolve(), 1.0)], limits) as first, open_scorer([(b.resolve(), 1.0)], limits) as second:
        return compare(_pairs(first, second, samples, advance), keep=keep)


def _pairs(
    first: Scorer, second: Scorer, samples: Iterable[Sample], advance: Advance | None
) -> Iterator[tuple[Sample, Verdict, Verdict]]:
    for part in _parts(samples):
        yield from zip(part, first.score(part), second.score(part), strict=True)
        if advance:
            advance(len(part))


def _parts(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    source = iter(samples)
    while part := list(islice(source, PART_SAMPLES)):
        yield part


def publish(
    store: PublishedStore,
    bundle: Bundle,
    *,
    golden: Path | None = None,
    tag: str = "",
    note: str = "",
    limits: Limits = LIMITS,
    advance: Advance | None = None,
) -> tuple[str, list[CaseResult]]:
    """Runs the golden cases and publishes when all pass: the hash, or "" when one misses, and the results.

    golden: the file that the bundle's cases were read from, for their recordings. Raises RewardError for a function without cases.
    """
    results: list[CaseResult] = []
    if bundle.kind == "function":
        subject = Subject(bundle.name, bundle.name, bundle, store.materialise(bundle))
        results = run_cases(subject, golden_cases(subject, golden), limits=limits, advance=advance)
        if not all(result.passed for result in results):
            return "", results
    return store.publish(bundle, tag=tag, note=note), results

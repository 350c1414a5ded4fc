"""The benchmarks by name, and reading one from a folder or file.

Neighbours: one module a benchmark; `evaluation.sources` asks for questions and scoring. Invariants: every bad record and recording is
named in one DataError; ids are unique; records keep the files' order.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from orchestrator.datasets.benchmarks import big_bench_audio, mmar, mmau, mmsu, spoken_mqa, wild_speech
from orchestrator.datasets.benchmarks.clips import examined, place
from orchestrator.datasets.benchmarks.format import Benchmark, Draft, Fields
from orchestrator.datasets.benchmarks.records import find_files, read_records
from orchestrator.datasets.schema import DataError, Problem
from rollout import AudioError, AudioRef, Question

MODULES = (mmau, mmar, mmsu, big_bench_audio, spoken_mqa, wild_speech)
BENCHMARKS: dict[str, Benchmark] = {module.BENCHMARK.name: module.BENCHMARK for module in MODULES}
READERS = 4  # decoding waits for the disk as much as for the processor


@dataclass(frozen=True, slots=True)
class _Found:
    """line: as in `Problem` (0 in files without lines); where: how messages call the record."""

    file: Path
    line: int
    where: str
    id: str
    draft: Draft
    clip: Path


def load_benchmark(name: str, path: Path, cache: Path) -> list[Question]:
    """Questions of a benchmark in its published files; cache: where embedded recordings are written.

    Raises DataError that names every bad record: not JSON, missing or ill-typed fields, an answer that is none of the options, an
    id used twice, a recording that is missing or can't be decoded.
    """
    benchmark = BENCHMARKS.get(name)
    if benchmark is None:
        raise DataError(f"there is no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    problems: list[Problem] = []
    found: list[_Found] = []
    path = path.absolute()
    for file in find_files(path, benchmark.files):
        roots = list(dict.fromkeys((file.parent, file.parent.parent, path if path.is_dir() else path.parent)))
        for number, record in read_records(file, problems):
            line = number if file.suffix == ".jsonl" else 0
            fields = Fields(record | {"@file": file.stem})
            draft = benchmark.read(fields)
            identity = draft.id or f"{file.stem}-{number}"
            where = f"record {number} ({identity})"
            faults = fields.faults
            if not faults:
                try:
                    clip = place(draft.sound, roots, cache)
                except AudioError as error:
                    faults = [str(error)]
            if faults:
                problems += [Problem(file, line, f"{where}: {fault}") for fault in faults]
                continue
            found.append(_Found(file, line, where, identity, draft, clip))
    problems += _twice(found)
    refs = _examined(found, problems)
    if problems:
        count = f"{len(problems)} problem" + ("s" if len(problems) > 1 else "")
        raise DataError(f"{count} in {benchmark.title} under {path}; correct or remove these records:", problems)
    if not found:
        raise DataError(f"{benchmark.title} under {path} holds no records; download it again")
    return [_question(one, refs[one.clip], benchmark.name) for one in found]


def _examined(found: list[_Found], problems: list[Problem]) -> dict[Path, AudioRef]:
    """Every clip once; what is wrong with one is said of every record that has it."""

    def look(clip: Path) -> AudioRef | str:
        try:
            return examined(clip)
        except AudioError as error:
            return str(error)

    clips = list(dict.fromkeys(one.clip for one in found))
    with ThreadPoolExecutor(READERS) as pool:
        results = dict(zip(clips, pool.map(look, clips), strict=True))
    for one in found:
        result = results[one.clip]
        if isinstance(result, str):
            problems.append(Problem(one.file, one.line, f"{one.where}: {result}"))
    return {clip: result for clip, result in results.items() if isinstance(result, AudioRef)}


def _twice(found: list[_Found]) -> list[Problem]:
    first: dict[str, _Found] = {}
    problems = []
    for one in found:
        before = first.setdefault(one.id, one)
        if before is not one:
            problems.append(
                Problem(one.file, one.line, f"{one.where}: id {one.id!r} is used already in {before.where}")
            )
    return problems


def _question(one: _Found, ref: AudioRef, name: str) -> Question:
    draft = one.draft
    return Question(
        id=one.id,
        prompt=draft.prompt,
        answer=draft.answer,
        answer_kind=draft.answer_kind,
        choices=draft.choices,
        audio=(ref,),
        domain=draft.domain,
        task=draft.task,
        split=draft.split,
        source=draft.source,
        rubric=draft.rubric,
        dataset=name,
    )

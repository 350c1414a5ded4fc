"""The judge behind the filters of distillation: asked about the chains that everything else lets pass, and about nothing more.

Neighbours: `distil` asks, `distillation.chains` drops what is below the bar or has no verdict, `preflight` resolved the judge before the
run began. Invariants: what was answered is on disk before the next part is asked, so a stage that is cut off pays for no answer
twice but those of one part; a judge that does not answer is no reason to pause; the costs file holds all that the run has spent.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.manifest import digest_of
from orchestrator.preflight import resolve_judge
from orchestrator.rundir import write_atomic
from orchestrator.stages.context import StageContext
from orchestrator.stages.scoring import Scored
from rewards import RewardService, Sample, Verdict, read_costs

PART = 64  # candidates
ANSWERS_FILE = "judged.jsonl"
COSTS_FILE = "judge_filter_costs.jsonl"  # of the run: a budget holds for all its iterations
FIGURES = ("requests", "tokens_in", "tokens_out", "money")

Ask = Callable[[Sequence[Sample]], list[Verdict]]


@dataclass(frozen=True, slots=True)
class Judgement:
    """verdicts: by trajectory id; versions: content hash of the judge by name; costs: of this stage, as `judge_requests`, …"""

    verdicts: dict[str, Verdict]
    versions: dict[str, str]
    costs: dict[str, float]

    @property
    def complaint(self) -> str:
        """How often the judge gave no verdict, and why most often; "" when it always did."""
        reasons = Counter(verdict.reason for verdict in self.verdicts.values() if not verdict.valid)
        if not reasons:
            return ""
        return f". The judge gave no verdict on {reasons.total()} chains, most often: {reasons.most_common(1)[0][0]}"


def ask_judge(context: StageContext, asked: Sequence[Scored]) -> Judgement:
    """One verdict for each, in a service of its own that ends with the stage; it is not started when all were answered before.

    Raises PreflightError when the judge can't be used any more, RewardError when its service does not start.
    """
    parts, name = context.parts, context.stage.name
    costs_file = parts.directory.root / COSTS_FILE
    if "judge_spent" not in context.progress:
        context.keep(context.progress | {"judge_spent": spent(costs_file)})
    reward = resolve_judge(parts.config, costs_file=str(costs_file))
    if reward is None:
        raise ValueError(f"stage {name}: no judge is named in pipeline.distil.judge")
    service = RewardService(reward)
    answers = Answers(context.folder / ANSWERS_FILE, service.versions)
    started = False

    def ask(samples: Sequence[Sample]) -> list[Verdict]:
        nonlocal started
        if not started:
            service.start(parts.config.rollout.start_timeout_s)
            started = True
        verdicts = service.score(samples)
        advance(len(samples))
        return verdicts

    try:
        with parts.progress.bar(f"{name} (judge)", len(asked)) as advance:
            verdicts = answers.complete(asked, ask)
    finally:
        service.shutdown()
    if answers.path.is_file() and ANSWERS_FILE not in context.files:
        context.files.append(ANSWERS_FILE)
    before, now = context.progress["judge_spent"], spent(costs_file)
    costs = {f"judge_{figure}": now[figure] - before[figure] for figure in FIGURES}
    judgement = Judgement(verdicts, service.versions, costs)
    if judgement.complaint:
        parts.progress.note(f"{name}{judgement.complaint}")
    return judgement


@dataclass(frozen=True, slots=True)
class Answers:
    """Verdicts of a judge on disk. path: JSONL; versions: of the judge, which another one's answers are not read for."""

    path: Path
    versions: Mapping[str, str]

    def complete(self, asked: Sequence[Scored], ask: Ask) -> dict[str, Verdict]:
        """Verdicts by trajectory id: those on disk, the others asked for in parts. A verdict that is not valid is not kept on disk:
        a resumed stage asks again."""
        known = self._read()
        keys = {scored.trajectory.id: self._key(scored) for scored in asked}
        found = {name: known[key] for name, key in keys.items() if key in known}
        left = [scored for scored in asked if scored.trajectory.id not in found]
        for start in range(0, len(left), PART):
            part = left[start : start + PART]
            verdicts = dict(zip((s.trajectory.id for s in part), ask([s.sample for s in part]), strict=True))
            found |= verdicts
            known |= {keys[name]: verdict for name, verdict in verdicts.items() if verdict.valid}
            self._write(known)
        return found

    def _key(self, scored: Scored) -> str:
        question = scored.question
        told = [question.id, question.prompt, question.answer, scored.trajectory.id, scored.trajectory.text]
        return digest_of([dict(self.versions), told])

    def _read(self) -> dict[str, Verdict]:
        if not self.path.is_file():
            return {}
        entries = map(json.loads, self.path.read_text(encoding="utf-8").splitlines())
        return {entry["key"]: Verdict(**entry["verdict"]) for entry in entries}

    def _write(self, verdicts: Mapping[str, Verdict]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = ({"key": key, "verdict": dataclasses.asdict(verdict)} for key, verdict in verdicts.items())
        write_atomic(self.path, "".join(json.dumps(line) + "\n" for line in lines))


def spent(costs_file: Path) -> dict[str, float]:
    """All that the run's judge has cost so far."""
    costs = read_costs(costs_file).values() if costs_file.is_file() else ()
    return {figure: float(sum(getattr(cost, figure) for cost in costs)) for figure in FIGURES}

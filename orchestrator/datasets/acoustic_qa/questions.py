"""Questions about a scene, with answers computed from how the scene was made.

Neighbours: `scenes` draws the scene, `chains` writes the reasoning, `build` adds the clip and writes JSONL.
Invariants: pure; a question is only asked where its answer is clear; `truth` holds the numbers behind the answer in
time order, so that every statement of a reasoning chain can be checked.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.datasets.acoustic_qa.scenes import DECAYING, Scene
from rollout.messages import AnswerKind, Question

TEMPO_LIMITS_S = (0.4, 0.65)  # fast below, slow above
MIN_PITCH_GAP_SEMITONES = 4
MIN_LEVEL_GAP_DB = 5.5
MIN_LENGTH_RATIO = 1.5
OPTIONS_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Task:
    """One kind of question. chance: accuracy of a random guess among the possible answers."""

    name: str
    prompt: str
    chance: float
    options: tuple[str, ...] = ()
    kind: AnswerKind = AnswerKind.CHOICE


TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task("word", "Which word is spoken?", 0.25),
        Task("source", "What makes this sound?", 0.25),
        Task("instrument", "Which instrument plays?", 0.25),
        Task("order", "Which came first?", 0.5),
        Task("count", "How many events are there?", 0.2, kind=AnswerKind.NUMBER),
        Task("louder", "Which sound is louder?", 0.5, ("first", "second")),
        Task("higher", "Which note is higher?", 0.5, ("first", "second")),
        Task("melody", "How does the melody move?", 0.5, ("rising", "falling")),
        Task("longer", "Which sound is longer?", 0.5, ("first", "second")),
        Task("tempo", "How fast is the beat?", 1 / 3, ("slow", "medium", "fast")),
    )
}
FAMILY_TASKS: Mapping[str, tuple[str, ...]] = {
    "word": ("word",),
    "sound": ("source",),
    "note": ("instrument",),
    "sequence": ("order",),
    "levels": ("louder",),
    "notes": ("higher", "louder", "longer", "instrument"),
    "melody": ("melody", "instrument"),
    "repeats": ("count",),
    "beat": ("tempo",),
}
_NAMED_DOMAIN = {"word": "speech", "source": "sound", "instrument": "music"}


def answer_of(scene: Scene, task: str) -> str | None:
    """The answer, or None when the task does not fit the scene or its answer would be marginal."""
    events = scene.events
    if task not in FAMILY_TASKS[scene.family]:
        return None
    if task in _NAMED_DOMAIN:
        return events[0].kind if all(e.domain == _NAMED_DOMAIN[task] for e in events) else None
    if task == "order":
        return events[0].kind
    if task == "count":
        return str(len(events))
    if task == "louder":
        return _first_or_second([e.gain_db for e in events], MIN_LEVEL_GAP_DB)
    if task == "higher":
        return _first_or_second([float(e.midi or 0) for e in events], MIN_PITCH_GAP_SEMITONES)
    if task == "melody":
        return "rising" if (events[-1].midi or 0) > (events[0].midi or 0) else "falling"
    if task == "longer":
        one, two = (e.duration_s for e in events)
        clear = max(one, two) >= MIN_LENGTH_RATIO * min(one, two) and not any(e.kind in DECAYING for e in events)
        return _first_or_second([one, two], 0.0) if clear else None
    if scene.beat_s is None:
        return None
    fast, slow = TEMPO_LIMITS_S
    return "fast" if scene.beat_s < fast else "slow" if scene.beat_s > slow else "medium"


def _first_or_second(values: Sequence[float], gap: float) -> str | None:
    one, two = values
    if abs(one - two) < gap or one == two:
        return None
    return "first" if one > two else "second"


def truth_of(scene: Scene) -> dict[str, Any]:
    """What sounds when: kinds, seconds, hertz, decibels relative to the loudest event."""
    return {
        "events": [
            {
                "kind": e.kind,
                "start_s": round(e.start_s, 3),
                "end_s": round(e.end_s, 3),
                "pitch_hz": None if e.pitch_hz is None else round(e.pitch_hz, 1),
                "level_db": round(e.gain_db, 2),
            }
            for e in scene.events
        ],
        "seconds": scene.seconds,
        "beat_s": scene.beat_s,
    }


def question_for(
    scene: Scene, task: str, kinds: Mapping[str, Sequence[str]], id_prefix: str, split: str = ""
) -> Question | None:
    """One question, without its clip (`audio` is empty), or None when the task does not fit.

    kinds: all kinds by domain, the wrong options are drawn from them; id: `{id_prefix}-{task}`.
    """
    answer = answer_of(scene, task)
    if answer is None:
        return None
    spec = TASKS[task]
    rng = random.Random(f"{task}/{scene.seed}/{id_prefix}")
    domain = scene.events[0].domain
    if task in _NAMED_DOMAIN:
        others = [k for k in kinds[domain] if k != answer]
        options = [answer, *rng.sample(others, min(OPTIONS_SHOWN - 1, len(others)))]
    elif task == "order":
        options = [e.kind for e in scene.events]
    else:
        options = list(spec.options)
    rng.shuffle(options)
    return Question(
        id=f"{id_prefix}-{task}",
        prompt=spec.prompt,
        answer=answer,
        answer_kind=spec.kind,
        choices=tuple(options),
        domain="music" if task in ("order", "tempo") and domain == "drum" else domain,
        task=task,
        split=split,
        source="+".join(sorted({e.recording_id for e in scene.events})),
        truth=truth_of(scene),
    )


def questions_for(
    scene: Scene, kinds: Mapping[str, Sequence[str]], id_prefix: str, split: str = ""
) -> tuple[Question, ...]:
    """All questions that fit the scene, in the order of TASKS."""
    found = (question_for(scene, task, kinds, id_prefix, split) for task in TASKS)
    return tuple(question for question in found if question is not None)

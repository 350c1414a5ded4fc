"""Builds the data set of short conversations: demonstrations.jsonl, manifest.json.

Neighbours: `templates` has the exchanges, `demonstrations` the file's form. Invariants: the same seed and sizes give the same bytes;
the share of turns about a sound without a clip is exact; no recording anywhere; the folder appears whole or not at all.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from orchestrator.datasets.conversations.templates import OPENINGS, TALK, Exchange, no_clip
from orchestrator.datasets.demonstrations import CONVERSATION, Demonstration, write_demonstrations
from orchestrator.datasets.folders import built_folder, write_manifest
from orchestrator.datasets.schema import DataError
from orchestrator.seeds import derive
from rollout.messages import AnswerKind, Question, Turn

log = logging.getLogger(__name__)

NAME = "conversations"
DEMONSTRATIONS = "demonstrations.jsonl"
SOURCES = (  # that decide the bytes of a build
    "orchestrator.datasets.conversations",
    "orchestrator.datasets.hearing_prompts",
    "orchestrator.datasets.acoustic_qa.chains",
    "orchestrator.datasets.demonstrations",
    "orchestrator.datasets.jsonl",
    "orchestrator.seeds",
    "rollout.messages",
)
COUNT = 600
NO_CLIP_SHARE = 0.4  # of conversations that end with a question about a sound where no clip is
REASONING_SHARE = 0.5  # of conversations with reasoning; the others have the empty think form
OPENING_SHARE = 0.5  # of conversations that begin with an exchange of no further use
AGAIN = 20  # draws for a conversation that is not there yet, before one may come again


def build_conversations(
    out_dir: str | Path,
    seed: int,
    count: int = COUNT,
    *,
    no_clip_share: float = NO_CLIP_SHARE,
    reasoning_share: float = REASONING_SHARE,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Builds the data set into `out_dir` and returns that folder; an earlier build there is replaced.

    no_clip_share, reasoning_share: 0..1 of all conversations. Raises DataError for other shares, or when the folder holds something
    else or cannot be written.
    """
    say = progress or log.info
    items = conversations(seed, count, no_clip_share=no_clip_share, reasoning_share=reasoning_share)
    with built_folder(out_dir, NAME) as folder:
        write_demonstrations(folder / DEMONSTRATIONS, items)
        more = {
            "count": count,
            "no_clip_share": no_clip_share,
            "reasoning_share": reasoning_share,
            "tasks": dict(Counter(item.question.task for item in items)),
        }
        write_manifest(folder, NAME, seed, more)
    say(f"{count} conversations in {out_dir}")
    return Path(out_dir).absolute()


def conversations(
    seed: int, count: int = COUNT, *, no_clip_share: float = NO_CLIP_SHARE, reasoning_share: float = REASONING_SHARE
) -> list[Demonstration]:
    """Conversations by seed, in mixed order. Raises DataError for a share outside 0..1 or a negative count."""
    if not (0 <= no_clip_share <= 1 and 0 <= reasoning_share <= 1 and count >= 0):
        raise DataError(
            f"conversations need shares between 0 and 1 and a count of 0 or more, got no_clip_share={no_clip_share}, "
            f"reasoning_share={reasoning_share}, count={count}"
        )
    rng = random.Random(derive(seed, NAME))
    silent = round(count * no_clip_share)
    talk = list(TALK.values())
    draws = [no_clip] * silent + [talk[i % len(talk)] for i in range(count - silent)]
    rng.shuffle(draws)
    reasoned = [i < round(count * reasoning_share) for i in range(count)]
    rng.shuffle(reasoned)
    seen: set[tuple[object, ...]] = set()
    out = []
    for number, (draw, with_reasoning) in enumerate(zip(draws, reasoned, strict=True)):
        for _ in range(AGAIN):
            earlier, last = _conversation(draw, rng)
            key = (earlier, last, with_reasoning)
            if key not in seen:
                break
        seen.add(key)
        out.append(_demonstration(number, earlier, last, with_reasoning))
    return out


def _conversation(
    draw: Callable[[random.Random], Exchange], rng: random.Random
) -> tuple[tuple[tuple[str, str], ...], Exchange]:
    """(earlier exchanges, last exchange). An opening never says what the rest says, nor a second name."""
    last = draw(rng)
    if rng.random() >= OPENING_SHARE:
        return last.earlier, last
    opening = rng.choice(OPENINGS)(rng)
    if opening.task == last.task or (opening.task == "introduction" and last.task == "follow_up"):
        return last.earlier, last
    return ((opening.said, opening.replied), *last.earlier), last


def _demonstration(
    number: int, earlier: tuple[tuple[str, str], ...], last: Exchange, with_reasoning: bool
) -> Demonstration:
    turns = tuple(turn for said, replied in earlier for turn in (Turn("human", said), Turn("assistant", replied)))
    question = Question(
        id=f"conversation-{number:05d}",
        prompt=last.said,
        answer=last.replied,
        answer_kind=AnswerKind.EXACT,
        domain="text",
        task=last.task,
        split="train",
        history=turns,
        dataset=NAME,
    )
    return Demonstration(question, last.reasoning if with_reasoning else "", last.replied, CONVERSATION)

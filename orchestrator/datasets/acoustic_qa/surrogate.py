"""Reasoning in two styles and several lengths: about the sound, and about a caption in its place.

Neighbours: `chains` writes the acoustic statements, the `sft` stage trains on either style. Invariants: pure; both styles end with the same
conclusion `So {answer}.`; a surrogate chain states nothing that decides the answer: before its conclusion it is the same for every
answer that the question could have.

A textual surrogate is what Step-Audio-R1, section 1, blames for audio models that get worse the longer they think: the model reasons about
a transcript or caption of the clip, and more of it brings no more evidence.
"""

from __future__ import annotations

import random
from dataclasses import replace

from orchestrator.datasets.acoustic_qa.chains import perceptions, with_article
from rollout.messages import Question

ACOUSTIC, SURROGATE = "acoustic", "surrogate"
STYLES = (ACOUSTIC, SURROGATE)
SENTENCES = 4  # of the longest surrogate chain, without its conclusion
# Captions name the kind of sound only where it decides nothing; {kind} has its article.
CAPTIONS = {
    "word": "A word is spoken.",
    "source": "A sound is there.",
    "instrument": "An instrument plays.",
    "order": "Two sounds are there.",
    "count": "Events of {kind} are there.",
    "louder": "Two sounds of {kind} are there.",
    "higher": "Two notes of {kind} are there.",
    "longer": "Two sounds of {kind} are there.",
    "melody": "A melody of {kind} plays.",
    "tempo": "A beat of {kind} plays.",
}
REMARK = "What you hear is the answer."


def reasonings(question: Question, style: str, lengths: int = 1, seed: int = 0) -> tuple[str, ...]:
    """`lengths` chains from the shortest to the whole one, as they stand between `<think>` and `</think>`.

    A question that has fewer lengths repeats some, so that every question weighs the same. One acoustic chain is the whole one
    (`chains.chain`); one surrogate chain has a length drawn by seed and question. Raises ValueError for an unknown style or task, or
    `lengths` below 1.
    """
    if style not in STYLES:
        raise ValueError(f"no chains in style {style!r}; one of {', '.join(STYLES)}")
    if lengths < 1:
        raise ValueError(f"{lengths} lengths: need at least 1")
    bodies = acoustic_bodies(question) if style == ACOUSTIC else surrogate_bodies(question)
    sizes = spread(len(bodies), lengths)
    if lengths == 1 and style == SURROGATE:
        sizes = (random.Random(f"surrogate/{seed}/{question.id}").randint(1, len(bodies)),)
    return tuple(f"{bodies[size - 1]} So {question.answer}." for size in sizes)


def acoustic_bodies(question: Question) -> tuple[str, ...]:
    """The statements about the first 1, 2, … events; the last one says all. One only where the first event says all there is."""
    events = question.truth["events"]
    said = (
        perceptions(replace(question, truth=question.truth | {"events": events[:count]}))
        for count in range(1, len(events) + 1)
    )
    return tuple(dict.fromkeys(said))


def surrogate_bodies(question: Question) -> tuple[str, ...]:
    """The first 1 to 4 of: a caption, the question again, its possible answers, a remark."""
    if question.task not in CAPTIONS:
        raise ValueError(f"no caption for task {question.task!r} of question {question.id!r}")
    caption = CAPTIONS[question.task].format(kind=with_article(question.truth["events"][0]["kind"]))
    asked = question.prompt.rstrip("?")
    options = " or ".join(sorted(question.choices)) if question.choices else "1 to 5"
    sentences = (caption, f"I answer {asked[:1].lower()}{asked[1:]}.", f"It is {options}.", REMARK)
    return tuple(" ".join(sentences[:count]) for count in range(1, SENTENCES + 1))


def spread(available: int, lengths: int) -> tuple[int, ...]:
    """`lengths` sizes evenly from 1 to `available`, sizes repeated where there are fewer; a single one is the largest."""
    if lengths == 1:
        return (available,)
    return tuple(1 + round(place * (available - 1) / (lengths - 1)) for place in range(lengths))

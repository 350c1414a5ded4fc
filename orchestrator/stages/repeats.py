"""Do responses still depend on what was asked? Shares of one policy update's responses that only repeat (pure).

Neighbours: `metrics` logs them, `orchestrator.sentinels` watches them. Invariants: texts alone decide, compared by words (case, spaces
and punctuation do not count); two questions with the same reference answer may well be answered alike, so that counts as no repetition.

What texts can't show is not claimed: a copy of a transcript or caption is seen only where the question carries those words, and a
paraphrase is not seen at all.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

from orchestrator.stages.scoring import Scored
from rollout import AnswerKind, Question

PHRASE = 3  # words; shorter ones are shared by accident
COPIED = 0.9  # of a reasoning's phrases are the source's own
TRUTH_WORDS = ("transcript", "caption")  # keys of a question's truth that hold the clip in words
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\W_]+(?:['’.,][^\W_]+)*")  # a CJK character is a word


def repeat_metrics(scored: Sequence[Scored]) -> dict[str, float]:
    """`responses/repeated_share`, `responses/stuck_share`, `think/copied_share`; each is left out where nothing can show it.

    repeated_share: of responses with reasoning, those whose words also answer a question with another reference answer.
    stuck_share: of questions with two samples or more, those whose samples all say the same and are not right.
    copied_share: of responses with reasoning, those whose reasoning is a copy of the question, its options or the clip's words.
    """
    texts = [(s, " ".join(words(s.sample.reasoning)), " ".join(words(s.sample.reply))) for s in scored]
    thinking = [(s, f"{think} | {reply}") for s, think, reply in texts if think]
    answers: dict[str, set[str]] = defaultdict(set)
    for s, text in thinking:
        answers[text].add(s.question.answer)
    groups: dict[str, list[tuple[Scored, str]]] = defaultdict(list)
    for s, think, reply in texts:
        groups[s.question.id].append((s, f"{think} | {reply}"))
    several = [group for group in groups.values() if len(group) > 1]
    out = {}
    if len({s.question.answer for s, _ in thinking}) > 1:
        out["responses/repeated_share"] = sum(len(answers[text]) > 1 for _, text in thinking) / len(thinking)
    if several:
        stuck = sum(len({text for _, text in group}) == 1 and not group[0][0].correct for group in several)
        out["responses/stuck_share"] = stuck / len(several)
    if thinking:
        sources = {s.question.id: source_phrases(s.question) for s, _ in thinking}
        copied = sum(is_copy(s.sample.reasoning, sources[s.question.id]) for s, _ in thinking)
        out["think/copied_share"] = copied / len(thinking)
    return out


def words(text: str) -> list[str]:
    return WORD.findall(text.casefold())


def source_phrases(question: Question) -> frozenset[tuple[str, ...]]:
    """Phrases of what the question says in words: prompt, options, earlier turns, and the clip's transcript or caption if given."""
    return frozenset(phrase for text in _sources(question) for phrase in _phrases(words(text)))


def is_copy(reasoning: str, source: frozenset[tuple[str, ...]]) -> bool:
    """Whether nearly every phrase of the reasoning is the source's own. Less than a phrase is no copy."""
    said = list(_phrases(words(reasoning)))
    return bool(said) and sum(phrase in source for phrase in said) >= COPIED * len(said)


def _phrases(said: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return zip(*(said[i:] for i in range(PHRASE)), strict=False)


def _sources(question: Question) -> Iterator[str]:
    yield question.prompt
    yield " ".join(question.choices)
    for turn in question.history:
        yield turn.text
    for key in TRUTH_WORDS:
        if isinstance(value := question.truth.get(key), str):
            yield value
    if question.answer_kind is AnswerKind.TRANSCRIPT:
        yield question.answer

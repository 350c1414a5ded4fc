"""Does the reasoning conclude what the reply answers?

Neighbours: `prose` finds conclusions; `choice`, `text`, `units` and `mathematics` say what counts as the same answer.
Invariants: pure; whether the answer is right does not matter; a reply is compared with the last conclusion only.
"""

from __future__ import annotations

import re

from rewards.functions.choice import DENIED, named_options
from rewards.functions.prose import is_conclusion, sentences
from rewards.functions.text import canonical, is_exact, without_lead_in
from rewards.functions.units import is_number, quantities
from rewards.messages import Sample
from rewards.registry import reward
from rollout.messages import AnswerKind

INNER = re.compile(
    r"(?:,|;|—|–|\s-)\s*(?:and\s+)?(?:so|therefore|thus|hence|which\s+means|meaning|making)\b\s*|"
    r"\b(?:the|my)\s+(?:final\s+|correct\s+|right\s+|best\s+)?(?:answer|choice|option)\s+(?:is|must\s+be|should\s+be|has\s+to\s+be|would\s+be|:|=)|"
    r"\bi(?:['’]ll|\s+will|\s+would)?\s+(?:choose|pick|select|answer|go\s+with|conclude)\b",
    re.IGNORECASE,
)
OPENING = re.compile(
    r"^\W*(?:so|therefore|thus|hence|consequently|accordingly|overall|in\s+(?:conclusion|summary)|to\s+conclude|"
    r"(?:this|that|which)\s+(?:means|suggests|implies|indicates)(?:\s+that)?|(?:i|we)\s+(?:can\s+)?conclude(?:\s+that)?)\b[\s,:]*",
    re.IGNORECASE,
)


def check_missing(missing: float | None) -> None:
    """Raises ValueError for a score of missing conclusions outside 0..1."""
    if missing is not None and not 0.0 <= missing <= 1.0:
        raise ValueError(f"missing lies in 0..1, or is null for an invalid verdict; got {missing}")


@reward("consistency", check=check_missing)
def consistency(sample: Sample, *, missing: float | None = 0.0) -> dict[str, float] | None:
    """1.0 when the reply gives the answer that the reasoning concludes, else 0.0; the part `concluded` is 1 when it does conclude.

    The conclusion is the last sentence that opens with `So`, `Therefore`, `The answer is` and the like, or the last such clause;
    for a choice else the last sentence that names exactly one option. Reasoning without one (an empty one, too) scores `missing`;
    null makes it invalid. A missing reply scores 0.0.
    """
    question = sample.question
    kind, choices = AnswerKind(question["answer_kind"]), list(question.get("choices") or ())
    concluded = conclusion(sample.reasoning, choices if kind is AnswerKind.CHOICE else [])
    if not concluded:
        return None if missing is None else {"score": missing, "concluded": 0.0}
    if not sample.reply:
        return {"score": 0.0, "concluded": 1.0}
    if kind is AnswerKind.CHOICE:
        same = _options(concluded, choices) == named_options(sample.reply, choices) - {DENIED}
    else:
        same = _is_same(kind, concluded, sample.reply, float(question.get("tolerance") or 0.0))
    return {"score": float(same), "concluded": 1.0}


def conclusion(reasoning: str, choices: list[str]) -> str:
    """The text that draws the answer, without its opening; "" when there is none. choices: options it may be told by."""
    said = sentences(reasoning)
    for sentence in reversed(said):
        inner = list(INNER.finditer(sentence))
        if inner or is_conclusion(sentence):
            drawn = sentence[inner[-1].end() :] if inner else without_lead_in(OPENING.sub("", sentence))
            drawn = drawn.strip(" \t:=,*")
            if choices and len(_options(drawn, choices)) != 1 and len(_options(sentence, choices)) == 1:
                drawn = sentence
            if drawn and (not choices or len(_options(drawn, choices)) == 1):
                return drawn
    for sentence in reversed(said):
        if choices and len(_options(sentence, choices)) == 1:
            return sentence
    return ""


def _options(text: str, choices: list[str]) -> set[int]:
    """Options that the text names, without those it denies."""
    return named_options(text, choices) - {DENIED}


def _is_same(kind: AnswerKind, concluded: str, reply: str, tolerance: float) -> bool:
    """Whether the reply says what the conclusion says: the number, or the text of one within the other."""
    if kind is AnswerKind.NUMBER:
        found = quantities(concluded)
        if not found:
            return False
        return is_number(reply, concluded if len(found) == 1 else f"{found[-1].value:g}", tolerance)
    one, other = canonical(concluded), canonical(reply)
    if not one or not other:
        return False
    if is_exact(reply, concluded) or _holds(one, other) or _holds(other, one):
        return True
    if kind is AnswerKind.MATH:
        return _is_equal_value(reply, concluded)
    return False


def _is_equal_value(reply: str, concluded: str) -> bool:
    """A conclusion is a model's own text: one that is no mathematics equals nothing, it is no fault of the question."""
    from rewards.functions.mathematics import is_equal

    try:
        return bool(is_equal(reply, concluded))
    except ValueError:
        return False


def _holds(text: str, part: str) -> bool:
    """Whole words only."""
    return f" {part} " in f" {text} "

"""Is the reply right? By the question's answer kind: choice, exact, number, transcript, set, list or math.

Neighbours: `choice`, `units`, `transcript`, `elements`, `mathematics`, `benchmark_rules` and `text` know a kind each; the
question carries kind, options, reference and tolerance.
Invariants: only the reply counts, never the reasoning; a reply that names two different options or numbers is wrong; a
question whose reference can't be used raises (an invalid verdict), it never scores 0.
"""

from __future__ import annotations

from rewards.functions.benchmark_rules import KINDS, RULES, is_benchmark_right
from rewards.functions.choice import WAYS, is_choice, named_options
from rewards.functions.elements import list_score, set_score
from rewards.functions.text import is_exact
from rewards.functions.transcript import transcript_score
from rewards.functions.units import is_number
from rewards.messages import Sample
from rewards.registry import reward
from rollout.messages import AnswerKind

__all__ = ["answer", "named_options"]
OURS = "ours"


def check_answer(by: str, rules: str, max_error_rate: float | None, partial: bool) -> None:
    """Raises ValueError for an unknown word, a rate that is not 0 or more, or a choice rule with a way of naming."""
    if by not in WAYS:
        raise ValueError(f"by is one of {', '.join(WAYS)}, not {by!r}")
    if rules not in (OURS, *RULES):
        raise ValueError(f"rules is one of {', '.join((OURS, *RULES))}, not {rules!r}")
    if rules != OURS and by != "either":
        why = "know no letters" if rules in ("mmau", "mmar") else "say how a choice is named"
        raise ValueError(f"the rules of {rules} {why}; leave by at 'either', not {by!r}")
    if max_error_rate is not None and not max_error_rate >= 0:
        raise ValueError(f"max_error_rate is null or a rate of 0 or more, not {max_error_rate!r}")
    if not isinstance(partial, bool):
        raise ValueError(f"partial is true or false, not {partial!r}")


@reward("answer", check=check_answer)
def answer(
    sample: Sample, *, by: str = "either", rules: str = OURS, max_error_rate: float | None = None, partial: bool = False
) -> float:
    """1.0 when the reply is right, else 0.0; transcripts, and sets and lists with `partial`, also between.

    by: how a choice must be named (`either`, `letter`, `text`); rules: whose rule decides (`ours`, or a
    benchmark's, on the answer kinds it knows: `benchmark_rules.KINDS`);
    max_error_rate: transcripts are right up to this word error rate (None: score 1 - rate); partial: credit for a part of a set
    or list. Raises ValueError when the question's own data can't be used.
    """
    question = sample.question
    kind, reference = question["answer_kind"], question["answer"]
    if kind in KINDS.get(rules, ()):
        return float(is_benchmark_right(rules, sample.reply, question["choices"], reference))
    if kind == AnswerKind.CHOICE:
        return float(is_choice(sample.reply, question["choices"], reference, by))
    match AnswerKind(kind):
        case AnswerKind.EXACT:
            return float(is_exact(sample.reply, reference))
        case AnswerKind.NUMBER:
            return float(is_number(sample.reply, reference, question["tolerance"]))
        case AnswerKind.TRANSCRIPT:
            return transcript_score(sample.reply, reference, max_error_rate)
        case AnswerKind.SET:
            return set_score(sample.reply, reference, partial)
        case AnswerKind.LIST:
            return list_score(sample.reply, reference, partial)
        case _:
            from rewards.functions.mathematics import is_equal

            return float(is_equal(sample.reply, reference))

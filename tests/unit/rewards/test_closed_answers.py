"""Big Bench Audio's rule without a judge reads a negated verdict as its opposite."""

from __future__ import annotations

import pytest

from rewards.functions.benchmark_rules import is_closed_answer


@pytest.mark.parametrize(
    ("reply", "meant"),
    [
        ("The argument is valid.", "valid"),
        ("The argument is not valid.", "invalid"),
        ("It is not deductively valid.", "invalid"),
        ("It isn't a valid argument.", "invalid"),
        ("It isn’t formally and so on. It is **not** *logically* **valid**.", "invalid"),
        ("It is not invalid.", "valid"),
        ("Valid, not invalid.", "valid"),
        ("It is invalid, not valid.", "invalid"),
        ("It is not only valid but sound.", "valid"),
        ("I thought not. Valid.", "valid"),
    ],
)
def test_a_negated_verdict_is_the_opposite_one(reply: str, meant: str) -> None:
    assert is_closed_answer(reply, meant)
    assert not is_closed_answer(reply, "valid" if meant == "invalid" else "invalid")


def test_yes_no_and_numbers_are_read_as_before() -> None:
    assert is_closed_answer("Not sure. No, yes.", "yes") and not is_closed_answer("Not yes, no.", "yes")
    assert is_closed_answer("There are not eleven, there are twelve.", "12")

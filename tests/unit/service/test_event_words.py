"""Events as a terminal shows them."""

from __future__ import annotations

import pytest

from orchestrator.service.event_words import in_words
from orchestrator.service_cli.compare import DETAIL

METRICS = {
    "reward/mean": 0.8641,
    "accuracy": 0.82,
    "generated_tokens_per_second": 4295.4,
    "reward/answer/task/word/std": 0.3,
}


@pytest.mark.parametrize(
    ("kind", "data", "text"),
    [
        ("state", {"before": "queued", "state": "starting", "reason": ""}, "queued → starting"),
        (
            "state",
            {"before": "running", "state": "failed", "reason": "out of memory\ntrace"},
            "running → failed: out of memory",
        ),
        ("stage", {"stage": "t1.distil", "state": "began"}, "t1.distil began"),
        ("stage", {"stage": "t1.distil", "state": "ended", "seconds": 28.26}, "t1.distil ended after 28 s"),
        (
            "note",
            {"text": "tracked in MLflow", "mlflow_run": "ab", "mlflow_url": "http://h/ab"},
            "tracked in MLflow http://h/ab",
        ),
        (
            "update",
            {"update": 5, "stage": "reinforce", "version": 6, "metrics": METRICS},
            "5 of reinforce: reward 0.864, accuracy 0.820, tokens/s 4,295",
        ),
        ("submitted", {"name": "first", "share": 0.25, "tags": {}}, "name first, share 0.25"),
    ],
)
def test_an_event_is_one_line_of_what_matters(kind: str, data: dict[str, object], text: str) -> None:
    assert in_words(kind, data) == text


def test_a_long_reason_is_cut() -> None:
    said = in_words("state", {"before": "running", "state": "failed", "reason": "x" * 500})
    assert len(said) < 200
    assert said.endswith("…")


@pytest.mark.parametrize(
    ("name", "detail"),
    [
        ("after/sampled", False),
        ("last/reward/mean", False),
        ("last/reward/answer", False),
        ("last/policy/entropy", False),
        ("last/think/tokens", False),
        ("after/stderr", True),
        ("last/reward/answer/task/word", True),
        ("last/reward/answer/seconds_p95", True),
        ("last/accuracy/word", True),
        ("last/policy/clip_fraction", True),
        ("last/seconds/update", True),
    ],
)
def test_a_comparison_shows_results_before_their_parts(name: str, detail: bool) -> None:
    assert bool(DETAIL.search(name)) is detail

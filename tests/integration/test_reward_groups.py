"""Which functions share a scoring process, what each of them can see, and order across several blocks."""

from __future__ import annotations

import importlib.util

import pytest

from rewards import RewardError, RewardSpec, RewardTerm, Sample, Scorer

KEY = "MGRD_TEST_REWARD_KEY"
VALUE = "a-long-secret-value-7"
SOURCE = f'''
import os
from rewards import Sample, reward

@reward("keyed", secrets=("{KEY}",))
def keyed(sample: Sample) -> float:
    """Has the key; tells it in its error when asked to."""
    value = os.environ["{KEY}"]
    if sample.reply == "tell":
        raise ValueError(f"the key is {{value}}")
    return float(len(value))

@reward("keyless")
def keyless(sample: Sample) -> float:
    return float("{KEY}" in os.environ) + len(sample.reply) / 1000

@reward("online", network=True)
def online(sample: Sample) -> float:
    import socket
    socket.socket().close()
    return float(os.getpid())

@reward("offline")
def offline(sample: Sample) -> float:
    return float(os.getpid())
'''


@pytest.fixture(autouse=True, scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Registers the functions above from a loose file."""
    file = tmp_path_factory.mktemp("rewards") / "grouped_rewards.py"
    file.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("grouped_rewards", file)
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def spec(*names: str) -> RewardSpec:
    return RewardSpec(tuple(RewardTerm(name, 1.0, "any") for name in names), 5.0, 512, 1)


def sample(number: int, reply: str) -> Sample:
    return Sample(f"t/{number}", {"answer": "x"}, reply, "", reply, True, True, 1, 0)


@pytest.mark.slow
def test_a_secret_reaches_only_the_functions_that_declare_it_and_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, VALUE)
    with Scorer(spec("keyless", "keyed")) as scorer:
        assert len(scorer.runner.sandboxes) == 2
        quiet, loud = scorer.score([sample(0, "quiet"), sample(1, "tell")])
    assert quiet.components == {"keyless": 0.005, "keyed": float(len(VALUE))}
    assert loud.components == {"keyless": 0.004}
    assert loud.reason == f"keyed raised ValueError: the key is [secret {KEY}]"


@pytest.mark.slow
def test_a_missing_secret_is_named_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY, raising=False)
    with pytest.raises(RewardError, match=KEY), Scorer(spec("keyless", "keyed")):
        pass


@pytest.mark.slow
def test_a_function_that_may_open_connections_has_a_process_of_its_own() -> None:
    with Scorer(spec("offline", "online")) as scorer:
        (verdict,) = scorer.score([sample(0, "x")])
    assert verdict.valid, verdict.reason
    assert verdict.components["online"] != verdict.components["offline"]


@pytest.mark.slow
def test_order_is_kept_over_several_blocks_and_functions() -> None:
    batch = [sample(i, "x" * (i % 700)) for i in range(3000)]
    with Scorer(spec("keyless", "offline")) as scorer:
        verdicts = scorer.score(batch)
        assert scorer.sandbox.processes_started == 1
    assert [verdict.components["keyless"] for verdict in verdicts] == [(i % 700) / 1000 for i in range(3000)]


@pytest.mark.slow
def test_a_sample_that_json_can_not_hold_is_invalid_and_keeps_nobody() -> None:
    odd = Sample("t", {"answer": object()}, "", "", "", True, True, 1, 0)
    with Scorer(spec("keyless")) as scorer:
        first, second, third = scorer.score([sample(0, "ab"), odd, sample(2, "abc")])
    assert (first.score, third.score) == (0.002, 0.003)
    assert not second.valid
    assert "can't be handed to reward functions" in second.reason

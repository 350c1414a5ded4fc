"""The verdict cache on a real server: what comes from it is what would be scored, and its failure costs nothing but time."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis_room import RedisRoom

from rewards import RewardError, RewardSpec, RewardTerm, Sample
from rewards.cache import VerdictCache, may_be_kept, sample_digest, term_prefix
from rewards.registry import ResolvedTerm
from rewards.sample_wire import encode_sample
from rewards.sandbox_wire import Outcome
from rewards.scorer import Scorer, resolve_reward

SPEC = RewardSpec(
    (RewardTerm("answer", 0.8, "audio"), RewardTerm("counted", 0.2, "audio"), RewardTerm("answer", 1.0, "text")),
    timeout_s=5.0,
    memory_mb=256,
    workers=1,
)
COUNTED = '''
from pathlib import Path
from rewards import Sample, reward

@reward("counted")
def counted(sample: Sample) -> dict[str, float] | None:
    """Tells how often it ran in this process by a part, which a hit must repeat."""
    global calls
    calls += 1
    if sample.reply == "fail":
        return None
    return {"score": len(sample.reply) / 7, "call": float(calls), "third": 1 / 3}

calls = 0
'''


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisRoom]:
    running = RedisRoom(tmp_path_factory.mktemp("valkey"))
    yield running
    running.kill()


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A loose file with a reward that counts its calls, registered in this process."""
    import importlib.util

    file = tmp_path_factory.mktemp("rewards") / "counted_reward.py"
    file.write_text(COUNTED)
    spec = importlib.util.spec_from_file_location("counted_reward", file)
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return file


def sample(number: int, reply: str = "violin", audio: bool = True) -> Sample:
    question = {
        "prompt": f"? {number}", "answer": "violin", "answer_kind": "choice", "choices": ["dog", "violin"], "tolerance": 0.0,
        "audio": [{"path": "/clip.wav", "sha256": "0" * 64, "seconds": 1.0}] if audio else [], "dataset": "d",
    }  # fmt: skip
    return Sample(f"t/{number}", question, reply, "I hear it.", reply, True, True, 9, 5)


finite = st.floats(allow_nan=False, allow_infinity=False)
kept = st.builds(
    Outcome, finite, parts=st.dictionaries(st.text(max_size=6), finite, max_size=3), notes=st.text(max_size=20)
)


@given(st.lists(st.tuples(st.binary(min_size=4, max_size=12), kept), max_size=12, unique_by=lambda entry: entry[0]))
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_kept_comes_back_bit_by_bit_and_nothing_else_does(
    server: RedisRoom, entries: list[tuple[bytes, Outcome]]
) -> None:
    redis.Redis.from_url(server.url).flushall()
    cache = VerdictCache(server.url)
    cache.put_many(entries)
    keys = [key for key, _ in entries]
    found = cache.get_many([*keys, b"another"])
    assert repr(found) == repr([outcome for _, outcome in entries] + [None])  # repr tells -0.0 from 0.0
    assert (cache.counts.hits, cache.counts.misses, cache.counts.failures) == (len(entries), 1, 0)


@pytest.mark.slow
@pytest.mark.usefixtures("counted")
def test_from_the_cache_verdicts_are_those_that_were_scored(server: RedisRoom) -> None:
    redis.Redis.from_url(server.url).flushall()
    batch = [sample(i, ("violin", "dog", "fail", f"reply {i}")[i % 4], audio=i % 5 > 0) for i in range(60)]
    cache = VerdictCache(server.url)
    with Scorer(SPEC, cache=cache, cached_above_s=0.0) as scorer:
        fresh = scorer.score(batch)
        hits = cache.counts.hits
        again = scorer.score([dataclasses.replace(s, trajectory_id=f"other/{i}") for i, s in enumerate(batch)])
    assert again == fresh
    assert any(not verdict.valid for verdict in fresh)
    scored = [verdict for verdict in fresh if verdict.valid]
    assert cache.counts.hits - hits == sum(("counted" in v.components) + 1 for v in scored) + sum(
        not v.valid for v in fresh
    )
    assert all(not verdict.seconds for verdict in again if verdict.valid)
    with Scorer(SPEC) as scorer:
        assert [(v.valid, v.score, v.reason) for v in scorer.score(batch)] == [
            (v.valid, v.score, v.reason) for v in fresh
        ]


@pytest.mark.slow
def test_another_version_or_other_parameters_are_another_entry(server: RedisRoom) -> None:
    redis.Redis.from_url(server.url).flushall()
    cache = VerdictCache(server.url)
    batch = [dataclasses.replace(sample(i), reasoning_tokens=i) for i in range(40)]
    scores = []
    for high in (8, 30, 8):
        term = RewardTerm("think_length", 1.0, "any", {"low": 2, "high": high})
        with Scorer(RewardSpec((term,), 5.0, 256, 1), cache=cache, cached_above_s=0.0) as scorer:
            scores.append([verdict.score for verdict in scorer.score(batch)])
    assert scores[0] == scores[2] != scores[1]
    assert (cache.counts.hits, cache.counts.misses) == (40, 80)


@pytest.mark.slow
def test_a_fast_function_is_not_looked_up_any_more(server: RedisRoom) -> None:
    redis.Redis.from_url(server.url).flushall()
    cache = VerdictCache(server.url)
    with Scorer(
        RewardSpec((RewardTerm("answer", 1.0, "any"),), 5.0, 256, 1), cache=cache, cached_above_s=0.5
    ) as scorer:
        scorer.score([sample(i) for i in range(20)])
        asked = cache.counts.misses + cache.counts.hits
        scorer.score([sample(i) for i in range(20)])
    assert asked == 20
    assert cache.counts.misses + cache.counts.hits == asked


def test_the_key_is_the_version_and_all_but_the_trajectory() -> None:
    line = encode_sample(sample(1))
    assert sample_digest(line) == sample_digest(encode_sample(dataclasses.replace(sample(1), trajectory_id="t/2")))
    odd = dataclasses.replace(sample(1), trajectory_id='a","question":{"b')
    assert sample_digest(encode_sample(odd)) == sample_digest(line)
    for name, value in (("text", "x"), ("reasoning", "x"), ("reply", "x"), ("finished", False), ("response_tokens", 1)):
        assert sample_digest(encode_sample(dataclasses.replace(sample(1), **{name: value}))) != sample_digest(line)
    (answer,) = resolve_reward(RewardSpec((RewardTerm("answer", 1.0, "any"),), 1.0, 256, 1)).terms
    (letter,) = resolve_reward(RewardSpec((RewardTerm("answer", 1.0, "any", {"by": "letter"}),), 1.0, 256, 1)).terms
    assert term_prefix(answer) != term_prefix(letter)


def test_only_deterministic_functions_are_kept_unless_their_policy_says_so() -> None:
    term = ResolvedTerm("judge", "m", "f", {}, "sha256:0", deterministic=False)
    assert not may_be_kept(term)
    assert may_be_kept(dataclasses.replace(term, parameters={"cache": True}))
    assert not may_be_kept(dataclasses.replace(term, parameters={"cache": False}))
    assert may_be_kept(dataclasses.replace(term, deterministic=True))


def test_entries_live_for_their_time(server: RedisRoom) -> None:
    client = redis.Redis.from_url(server.url)
    VerdictCache(server.url, ttl_s=60.0).put_many([(b"short", Outcome(1.0))])
    VerdictCache(server.url, ttl_s=0.0).put_many([(b"long", Outcome(1.0))])
    assert 0 < client.pttl("short") <= 60_000
    assert client.pttl("long") == -1
    with pytest.raises(RewardError, match="can't be kept"):
        VerdictCache(server.url, ttl_s=-1.0)
    with pytest.raises(RewardError, match="malformed"):
        VerdictCache("nowhere")


def test_an_entry_that_can_not_be_read_is_a_miss(server: RedisRoom, caplog: pytest.LogCaptureFixture) -> None:
    client = redis.Redis.from_url(server.url)
    client.set("broken", b"not an entry")
    client.set("nan", b"\x00\x00\x00\x00\x00\x00\xf8\x7f")
    assert VerdictCache(server.url).get_many([b"broken", b"nan"]) == [None, None]
    assert "made anew" in caplog.text


@pytest.mark.slow
@pytest.mark.chaos
def test_without_redis_everything_is_scored_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = RedisRoom(tmp_path)
    cache = VerdictCache(server.url)
    batch = [sample(i, f"violin {i}") for i in range(30)]
    with Scorer(
        RewardSpec((RewardTerm("answer", 1.0, "any"),), 5.0, 256, 1), cache=cache, cached_above_s=0.0
    ) as scorer:
        fresh = scorer.score(batch)
        server.kill()
        with caplog.at_level(logging.WARNING, "rewards.cache"):
            assert scorer.score(batch) == fresh
            monkeypatch.setattr("rewards.cache.PAUSE_S", 0.0)
            cache._asked_again_at = 1e-9
            assert scorer.score(batch) == fresh
        assert caplog.text.count("does not answer") == 1
        server.start()
        hits = cache.counts.hits
        assert scorer.score(batch) == fresh
        assert cache.counts.hits == hits + 30
    server.kill()

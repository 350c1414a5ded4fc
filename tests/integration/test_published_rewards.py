"""The registry of published rewards on a real server, and what a run does with it."""

from __future__ import annotations

import dataclasses
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
from redis_room import RedisRoom

from rewards import Bundle, PublishedStore, RewardError, RewardSpec, RewardTerm, Sample, Scorer
from rewards.lab import bundle_file, publish, remote_bundle
from rewards.lanes import RewardWorker
from rewards.registry import resolve
from rewards.scorer import resolve_reward

SOURCE = """
from rewards import Sample, reward
from limits_of_it import LIMIT

@reward("short_reply")
def short_reply(sample: Sample, *, characters: int = 4) -> float:
    return float(len(sample.reply) <= characters * LIMIT)
"""
CASE = '{"case": "%s", "question": {"prompt": "?"}, "response": "%s", "expected": %s}\n'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisRoom]:
    room = RedisRoom(tmp_path_factory.mktemp("registry"))
    yield room
    room.kill()


@pytest.fixture
def store(server: RedisRoom, tmp_path: Path) -> Iterator[PublishedStore]:
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
    opened = PublishedStore.from_url(server.url, tmp_path / "bundles")
    yield opened
    opened.close()


def write(folder: Path, limit: int = 1) -> tuple[str, Path]:
    """A reward in a file of its own, and its golden cases."""
    folder.mkdir(exist_ok=True)
    (folder / "replies.py").write_text(SOURCE)
    (folder / "limits_of_it.py").write_text(f"LIMIT = {limit}\n")
    golden = folder / "cases.jsonl"
    golden.write_text(CASE % ("short", "dog", "1.0") + CASE % ("long", "a very long reply", "0.0"))
    return f"{folder / 'replies.py'}:short_reply", golden


def bundle(folder: Path, limit: int = 1) -> Bundle:
    reference, golden = write(folder, limit)
    return bundle_file(reference, golden=golden)


def sample(reply: str) -> Sample:
    return Sample("t", {"prompt": "", "answer": ""}, reply, "", reply, True, True, 3, 0)


def term(version: str, **parameters: object) -> RewardTerm:
    return RewardTerm("short_reply", 1.0, "any", parameters, version=version)


def scores(store: PublishedStore | None, version: str, *replies: str) -> list[float | None]:
    spec = RewardSpec((term(version),), timeout_s=5.0, memory_mb=1024, workers=1)
    with Scorer(resolve_reward(spec, store)) as scorer:
        return [verdict.score for verdict in scorer.score([sample(reply) for reply in replies])]


def test_what_is_published_comes_back_and_publishing_again_changes_nothing(
    store: PublishedStore, tmp_path: Path
) -> None:
    made = bundle(tmp_path / "mine")
    digest = store.publish(made, note="first", at=1.0)
    assert store.publish(made, note="second", at=2.0) == digest == made.hash
    assert store.get(digest) == made
    (line,) = store.list()
    assert (line.hash, line.name, line.kind, line.at, line.note, line.tags) == (
        digest, "short_reply", "function", 1.0, "first", (),
    )  # fmt: skip
    assert store.show(digest[:19]) == (line, made)


def test_hash_prefix_and_tag_lead_to_the_version_and_nothing_else_does(store: PublishedStore, tmp_path: Path) -> None:
    digest = store.publish(bundle(tmp_path / "mine"), tag="stable")
    digits = digest.removeprefix("sha256:")
    for reference in (digest, f"sha256:{digits[:12]}", digits[:12], digits, "short_reply@stable"):
        assert store.find(reference) == digest
    assert store.find("stable", name="short_reply") == digest
    for reference, message in [
        ("sha256:" + "0" * 64, "no reward is published under sha256:000"),
        ("0" * 12, "no reward is published under 000"),
        ("sha256:" + digits[:11], "give 12 hexadecimal digits"),
        ("short_reply@fast", "there is no tag short_reply@fast; published: short_reply"),
        ("stable", "belongs to a name"),
        ("short_reply@", "is no tag"),
    ]:
        with pytest.raises(RewardError, match=message):
            store.find(reference)
    with pytest.raises(RewardError, match="a version of the reward 'short_reply', not of 'answer'"):
        store.find(digest, name="answer")


def test_a_tag_moves_in_the_same_moment_as_a_version_is_published(store: PublishedStore, tmp_path: Path) -> None:
    first = store.publish(bundle(tmp_path / "mine"), tag="stable")
    second = store.publish(bundle(tmp_path / "mine", limit=2), tag="stable")
    assert store.find("short_reply@stable") == second != first
    store.tag(first, "stable", name="short_reply")
    assert {line.hash: line.tags for line in store.list()} == {first: ("stable",), second: ()}
    for tag in ("0123456789ab", "1st", "a b", ""):
        with pytest.raises(RewardError, match="is no tag"):
            store.tag(first, tag, name="short_reply")
    with pytest.raises(RewardError, match="no reward is published"):
        store.tag("sha256:" + "0" * 64, "stable", name="short_reply")


def test_many_publishers_at_once_leave_one_version_and_a_tag_that_leads_somewhere(
    server: RedisRoom, store: PublishedStore, tmp_path: Path
) -> None:
    made = [bundle(tmp_path / "mine", limit=limit) for limit in (1, 2)]
    gate = threading.Barrier(8)

    def publish_one(number: int) -> str:
        own = PublishedStore.from_url(server.url, tmp_path / "bundles")
        gate.wait()
        digest = own.publish(made[number % 2], tag="stable")
        assert own.find("short_reply@stable") in {one.hash for one in made}
        assert own.materialise(made[number % 2]).is_file()
        own.close()
        return digest

    with ThreadPoolExecutor(8) as threads:
        digests = set(threads.map(publish_one, range(8)))
    assert digests == {one.hash for one in made} == {line.hash for line in store.list()}


def test_a_retired_version_is_kept_from_new_runs_only(store: PublishedStore, tmp_path: Path) -> None:
    made = bundle(tmp_path / "mine")
    digest = store.publish(made, tag="stable")
    store.retire(digest, note="counts bytes")
    for version in (digest, "stable"):
        with pytest.raises(RewardError, match="was retired: counts bytes; runs that were started with it may go on"):
            resolve(term(version), store)
        assert resolve(term(version), store, resumed=True).published == digest
    assert store.list() == () and store.list(retired=True)[0].retired_note == "counts bytes"
    assert store.get(digest) == made
    with pytest.raises(RewardError, match="retire --undo"):
        store.publish(made)
    with pytest.raises(RewardError, match="retired"):
        store.tag(digest, "fast", name="short_reply")
    store.retire(digest, undo=True)
    assert resolve(term(digest), store).published == digest
    with pytest.raises(RewardError, match="no reward is published"):
        store.retire("sha256:" + "0" * 64)


def test_a_run_scores_with_the_pinned_version_when_file_and_registry_are_gone(
    server: RedisRoom, store: PublishedStore, tmp_path: Path
) -> None:
    digest, results = publish(store, bundle(tmp_path / "mine"), golden=tmp_path / "mine" / "cases.jsonl", tag="stable")
    assert [result.passed for result in results] == [True, True]
    other = store.publish(bundle(tmp_path / "mine", limit=3))
    assert scores(store, "stable", "dog", "five!") == [1.0, 0.0]
    assert scores(store, other, "dog", "five!") == [1.0, 1.0]
    spec = RewardSpec((term("stable"),), timeout_s=5.0, memory_mb=1024, workers=1)
    reward = resolve_reward(spec, store)
    assert reward.versions == {"short_reply": digest}
    for file in (tmp_path / "mine").iterdir():
        file.unlink()
    server.kill()
    try:
        with Scorer(reward) as scorer:
            assert [verdict.score for verdict in scorer.score([sample("dog"), sample("five!")])] == [1.0, 0.0]
        with pytest.raises(RewardError, match=r"the registry of rewards at 127\.0\.0\.1:\d+ does not answer"):
            resolve(term("stable"), store)
    finally:
        server.start()
    assert store.find("short_reply@stable") == digest


def test_two_versions_of_a_function_are_told_apart_within_one_reward(store: PublishedStore, tmp_path: Path) -> None:
    first, second = (store.publish(bundle(tmp_path / "mine", limit=limit)) for limit in (1, 2))
    spec = RewardSpec(
        (
            RewardTerm("short_reply", 1.0, "text", version=first),
            RewardTerm("short_reply", 1.0, "audio", version=second),
        ),
        timeout_s=5.0,
        memory_mb=1024,
        workers=1,
    )
    spoken = dataclasses.replace(sample("five!"), question={"prompt": "", "answer": "", "audio": [{"path": "a.wav"}]})
    with Scorer(resolve_reward(spec, store)) as scorer:
        assert [verdict.score for verdict in scorer.score([sample("five!"), spoken])] == [0.0, 1.0]


def test_nothing_is_published_whose_golden_cases_miss(store: PublishedStore, tmp_path: Path) -> None:
    reference, golden = write(tmp_path / "mine")
    golden.write_text(golden.read_text() + CASE % ("wrong", "dog", "0.5"))
    digest, results = publish(store, bundle_file(reference, golden=golden), golden=golden)
    assert digest == "" and [result.passed for result in results] == [True, True, False]
    assert (results[2].expected, results[2].got) == ("0.5", "1")
    assert store.list(retired=True) == ()
    with pytest.raises(RewardError, match="brings no golden cases"):
        publish(store, bundle_file(reference))


def test_a_remote_reward_is_published_by_its_address(store: PublishedStore) -> None:
    digest, results = publish(store, remote_bundle("style", "https://rewards.example/score"), tag="stable")
    assert results == [] and store.find("style@stable") == digest
    found = resolve(RewardTerm("style", 1.0, "any", version="stable"), store)
    assert (found.name, found.function, found.endpoint, found.published) == ("style", "remote", True, digest)
    assert found.parameters["url"] == "https://rewards.example/score"


def test_an_entry_that_was_changed_in_redis_is_never_run(
    server: RedisRoom, store: PublishedStore, tmp_path: Path
) -> None:
    made = bundle(tmp_path / "mine")
    digest = store.publish(made)
    with redis.Redis.from_url(server.url) as client:
        client.hset("{mgrd:rewards}:bundles", digest, made.encode().replace(b"<=", b">="))
    with pytest.raises(RewardError, match=r"its content gives sha256:.*it was changed"):
        store.get(digest)


def test_a_machine_that_has_not_resolved_a_published_reward_gets_a_copy_of_it(
    store: PublishedStore, tmp_path: Path
) -> None:
    store.publish(bundle(tmp_path / "mine"), tag="stable")
    spec = RewardSpec((term("stable"),), timeout_s=5.0, memory_mb=1024, workers=1)
    reward = resolve_reward(spec, store)
    shutil.rmtree(Path(reward.terms[0].file).parent)  # as on a machine that has never seen it
    worker = RewardWorker(reward, dict(enumerate(reward.terms)))
    try:
        assert worker.start(1)[0] == ""
        assert Path(reward.terms[0].file).is_file()
    finally:
        worker.close()

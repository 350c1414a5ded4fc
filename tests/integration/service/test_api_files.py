"""What runs leave behind and what users send, over HTTP: logs that grow and turn over, recordings, code."""

from __future__ import annotations

import hashlib
import io
import stat
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from api_room import ApiRoom, problem

from orchestrator.service.messages import SampledTrajectory, State


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiRoom]:
    running = ApiRoom(tmp_path_factory.mktemp("api"), max_code_mb=1.0)
    yield running
    running.close()


def begun(room: ApiRoom) -> tuple[str, int, Path]:
    """(id, lease, folder of the logs) of an experiment that runs."""
    made = room.submit("experiment=micro")
    claimed = room.store.claim(made["id"], "one", 60.0)
    assert claimed is not None
    room.store.running(made["id"], claimed.attempt)
    logs = room.home.run_dir(made["id"]) / "logs"
    logs.mkdir(parents=True)
    return made["id"], claimed.lease, logs


def test_the_last_lines_are_read_over_files_that_were_turned_over(room: ApiRoom) -> None:
    id, _, logs = begun(room)
    (logs / "driver.log.2").write_text("1\n2\n")
    (logs / "driver.log.1").write_text("3\n4\n")
    (logs / "driver.log").write_text("5\n6")
    for name in ("rollout-1.log", "rollout-0.log", "trainer-0.log", "rollout-0.log.1", "notes.txt", "a b.log"):
        (logs / name).write_text("x\n")
    client, path = room.clients["read"], f"/v1/experiments/{id}/logs"
    assert client.get(f"{path}/components").json()["components"] == ["driver", "rollout/0", "rollout/1", "trainer/0"]
    assert client.get(path, params={"tail": 4}).text == "3\n4\n5\n6"
    assert client.get(path, params={"tail": 1}).text == "6"
    assert client.get(path).text == "1\n2\n3\n4\n5\n6" and client.get(path, params={"tail": 0}).text == ""
    assert client.get(path, params={"component": "rollout/0"}).text == "x\nx\n"
    field, message = problem(client.get(path, params={"component": "rollout/7"}), 404)
    assert (field, message) == ("query.component", f"{id} has no component 'rollout/7'")
    for evil in ("../driver", "/etc/passwd", "driver.log", "rollout/../../x"):
        assert problem(client.get(path, params={"component": evil}), 422)[0] == "query.component"


def test_a_log_is_followed_over_turn_overs_until_the_experiment_ends(room: ApiRoom) -> None:
    id, lease, logs = begun(room)
    log = logs / "driver.log"
    log.write_text("old\nbefore\n")
    found, opened = [], threading.Event()

    def follow() -> None:
        with (
            room.client("read") as client,
            client.stream("GET", f"/v1/experiments/{id}/logs?follow=true&tail=1") as answer,
        ):
            for text in answer.iter_text():
                found.append(text)
                opened.set()

    thread = threading.Thread(target=follow)
    thread.start()
    assert opened.wait(30.0)
    expected = ["before"]
    for number in range(6):
        with log.open("a") as file:
            file.write(f"line {number}\n")
        expected.append(f"line {number}")
        if number % 2:
            log.replace(logs / "driver.log.1")
            log.write_text("")
        _until(lambda number=number: f"line {number}" in "".join(found))
    room.store.settle(id, lease, State.CANCELLED)
    with log.open("a") as file:
        file.write("last words\n")
    thread.join(30.0)
    assert not thread.is_alive()
    assert "".join(found).splitlines() == [*expected, "last words"]


def test_only_recordings_that_a_sample_names_and_that_lie_where_they_may_are_handed_out(room: ApiRoom) -> None:
    id, _, _ = begun(room)
    (room.data / "clip.wav").write_bytes(b"RIFF" + b"\0" * 100)
    (room.data / "secret.txt").write_text("secret")
    (room.data / "link.wav").symlink_to("/etc/hostname")
    names = ("clip.wav", "/etc/passwd", "secret.txt", "link.wav", "gone.wav")
    clips = tuple((letter * 64, str(room.data / name)) for letter, name in zip("abcde", names, strict=True))
    sample = SampledTrajectory("t1", 1, "rl", "What?", (), "dog", "hm", "dog", True, None, "late", {}, clips)
    room.store.keep_samples(id, 1, [sample])
    client = room.clients["read"]
    shown = client.get(f"/v1/experiments/{id}/samples").json()["samples"]
    assert shown[0]["id"] == "t1" and shown[0]["score"] is None
    good = client.get(f"/v1/experiments/{id}/audio/{'a' * 64}")
    assert good.content[:4] == b"RIFF" and good.headers["content-type"] == "audio/wav"
    assert good.headers["x-content-type-options"] == "nosniff"
    part = client.get(f"/v1/experiments/{id}/audio/{'a' * 64}", headers={"Range": "bytes=0-3"})
    assert (part.status_code, part.content) == (206, b"RIFF")
    for letter in "bcd":
        assert "no audio file in a folder" in problem(client.get(f"/v1/experiments/{id}/audio/{letter * 64}"), 404)[1]
    assert "was deleted" in problem(client.get(f"/v1/experiments/{id}/audio/{'e' * 64}"), 404)[1]
    assert "no sample of" in problem(client.get(f"/v1/experiments/{id}/audio/{'f' * 64}"), 404)[1]
    problem(client.get(f"/v1/experiments/{id}/audio/..%2f..%2fsecret.txt"), 404)


def zipped(*entries: tuple[str, bytes, int]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content, mode in entries:
            info = zipfile.ZipInfo(name)
            info.filename = name
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            out.writestr(info, content)
    return buffer.getvalue()


FILE, LINK = stat.S_IFREG | 0o644, stat.S_IFLNK | 0o777


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no zip", "that is no zip file that can be read"),
        (zipped(("/etc/x.py", b"", FILE)), "the entry '/etc/x.py' leads out of its folder"),
        (zipped(("a/../../x.py", b"", FILE)), "leads out of its folder"),
        (zipped(("a\\..\\x.py", b"", FILE)), "leads out of its folder"),
        (zipped(("link", b"/etc/passwd", LINK)), "the entry 'link' is a link or a device"),
        (zipped(("big.py", b"0" * (25 << 20), FILE)), "it unpacks to more than code has"),
        (zipped(("a.py", b"1", FILE), ("./a.py", b"2", FILE)), "is there twice"),
        (zipped(), "it holds no file"),
    ],
    ids=["text", "absolute", "up", "backslash", "link", "bomb", "twice", "empty"],
)
def test_code_that_could_do_harm_before_it_runs_is_not_kept(
    tmp_path: Path, room: ApiRoom, content: bytes, message: str
) -> None:
    sha = hashlib.sha256(content).hexdigest()
    answer = room.clients["submit"].put(f"/v1/code/{sha}", content=content)
    field, said = problem(answer, 422)
    assert field == "body" and message in said
    assert room.clients["read"].head(f"/v1/code/{sha}").status_code == 404
    assert [path.name for path in room.home.code.iterdir() if path.name.startswith(".")] == []


def test_code_is_kept_once_under_its_hash_and_travels_with_an_experiment(room: ApiRoom) -> None:
    content = zipped(("my_rewards/__init__.py", b"", FILE), ("data/train.jsonl", b"{}\n", FILE))
    sha = hashlib.sha256(content).hexdigest()
    client = room.clients["submit"]
    assert problem(client.put(f"/v1/code/{'0' * 64}", content=content), 422)[1] == f"the body's SHA-256 is {sha}"
    made = client.put(f"/v1/code/{sha}", content=content)
    assert (made.status_code, made.json()) == (201, {"sha256": sha, "bytes": len(content), "files": 2, "created": True})
    assert client.put(f"/v1/code/{sha}", content=content).status_code == 200
    assert client.head(f"/v1/code/{sha}").status_code == 200 and (room.home.code / f"{sha}.zip").read_bytes() == content
    assert room.submit("experiment=micro", "data.train=data/train.jsonl", code=sha)["code"] == sha
    large = client.put(f"/v1/code/{sha}", content=(b"x" * (1 << 20) for _ in range(2 + int(room.settings.max_code_mb))))
    assert "at most 1 MB" in problem(large, 413)[1]


def _until(done: object, limit_s: float = 30.0) -> None:
    deadline = time.monotonic() + limit_s
    while not done():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)

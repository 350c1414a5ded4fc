"""A checkpoint has its name only when it is whole; the newest and the best stay; what cannot be written is told at the next call."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actor import SEAL, seal_of, write_seal
from orchestrator.checkpoint_keeper import CheckpointKeeper
from orchestrator.checkpoint_mirror import CheckpointMirror
from orchestrator.checkpoints import TRAINER, CheckpointShelf, Kept, Metric, best_of, retained
from orchestrator.config.schema import RunConfig
from orchestrator.errors import ConfigError, RunFailed

REWARD = Metric.parse("reward/mean")


class SlowDisk:
    """Saves as a trainer does, at the pace of the test: `go` lets the writer on, `fails` makes it fail."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.fails = False
        self.content = "weights"
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None

    def save(self, directory: str | Path, *, wait: bool = True) -> None:
        folder = Path(directory)
        (folder / "actor").mkdir(parents=True)
        self._thread = threading.Thread(target=self._write, args=(folder, self.content))
        self._thread.start()
        if wait:
            self.finish_save()

    def save_written(self) -> bool:
        return self._thread is None or not self._thread.is_alive()

    def finish_save(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
        if self._error is not None:
            raise self._error

    def _write(self, folder: Path, content: str) -> None:
        self.go.wait(10)
        if self.fails:
            self._error = OSError(28, "No space left on device", str(folder))
            return
        (folder / "actor" / "weights").write_text(content)
        write_seal(folder / "actor", seal_of([folder / "actor" / "weights"], folder / "actor"), {})
        write_seal(folder, seal_of([folder / "actor" / SEAL], folder), {})


@pytest.fixture
def disk() -> SlowDisk:
    return SlowDisk()


def keeper(root: Path, disk: SlowDisk, *, background: bool = False, mirror: Any = None, **run: Any) -> CheckpointKeeper:
    return CheckpointKeeper(CheckpointShelf(root), disk, RunConfig(**run), background=background, mirror=mirror)


def save(shelf: CheckpointKeeper, number: int, named: list[str] | None = None, **metrics: float) -> str:
    name = f"update_{number:06d}"
    done = [] if named is None else named
    state = {"version": number, "progress": {"update": number}}
    shelf.begin(name, state, stage="rl", update=number, metrics=metrics, named=lambda: done.append(name))
    return name


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_a_checkpoint_in_the_background_has_its_name_after_it_is_written(tmp_path: Path, disk: SlowDisk) -> None:
    """Until then the former one stands, and what depends on the new one is not let go."""
    checkpoints, named = keeper(tmp_path, disk, background=True), list[str]()
    save(checkpoints, 1, named)
    checkpoints.settle(wait=True)
    disk.go.clear()
    disk.content = "newer weights"
    save(checkpoints, 2, named)
    checkpoints.settle(wait=False)
    assert named == ["update_000001"] and names(tmp_path) == [".update_000002.tmp", "update_000001"]
    disk.go.set()
    checkpoints.close()
    assert named == ["update_000001", "update_000002"]
    folder, state = checkpoints.open("update_000002")
    assert (folder / "actor" / "weights").read_text() == "newer weights"
    assert state == {"version": 2, "progress": {"update": 2}}


def test_the_next_checkpoint_waits_for_the_one_before(tmp_path: Path, disk: SlowDisk) -> None:
    checkpoints, named = keeper(tmp_path, disk, background=True), list[str]()
    disk.go.clear()
    save(checkpoints, 1, named)
    threading.Timer(0.2, disk.go.set).start()
    save(checkpoints, 2, named)
    assert named == ["update_000001"]


def test_a_write_that_failed_is_raised_by_the_next_call_and_never_named(tmp_path: Path, disk: SlowDisk) -> None:
    checkpoints, named = keeper(tmp_path, disk, background=True), list[str]()
    disk.fails = True
    disk.go.clear()
    save(checkpoints, 1, named)
    disk.go.set()
    with pytest.raises(OSError, match="No space left"):
        while True:
            checkpoints.settle(wait=False)
    assert named == [] and not (tmp_path / "update_000001").exists()


def test_a_checkpoint_that_the_trainer_did_not_seal_gets_no_name(tmp_path: Path) -> None:
    shelf = CheckpointShelf(tmp_path)
    (shelf.begin("update_000001") / TRAINER).mkdir()
    with pytest.raises(RunFailed, match="update_000001 is not complete: the trainer has not sealed"):
        shelf.complete("update_000001", "{}", {})
    assert not shelf.path("update_000001").exists()


def test_what_a_killed_process_left_is_cleared_by_the_next(tmp_path: Path, disk: SlowDisk) -> None:
    (tmp_path / ".update_000009.tmp" / TRAINER).mkdir(parents=True)
    save(keeper(tmp_path, disk), 1)
    assert names(tmp_path) == ["update_000001"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("state.json", "state.json has changed"),
        ("trainer/actor/weights", "weights is torn"),
        ("manifest.json", "manifest.json is damaged"),
        ("trainer/manifest.json", "trainer/manifest.json is torn"),
    ],
)
def test_a_damaged_checkpoint_is_refused_by_the_name_of_its_file(
    tmp_path: Path, disk: SlowDisk, name: str, said: str
) -> None:
    checkpoints = keeper(tmp_path, disk)
    path = tmp_path / save(checkpoints, 1) / name
    text = path.read_text()
    path.write_text(text.replace('"version": 1', '"version": 2') if name == "state.json" else text[:-1])
    with pytest.raises(RunFailed, match=f"checkpoint update_000001 cannot be used: .*{said}"):
        checkpoints.open("update_000001")


def test_the_newest_and_the_best_stay_and_best_points_to_the_best(tmp_path: Path, disk: SlowDisk) -> None:
    checkpoints = keeper(tmp_path, disk, keep_checkpoints=2, keep_best=1)
    for number, reward in enumerate([0.1, 0.9, 0.4, 0.5, 0.6], start=1):
        save(checkpoints, number, **{"reward/mean": reward})
    assert names(tmp_path) == ["best", "update_000002", "update_000004", "update_000005"]
    assert (tmp_path / "best").resolve().name == "update_000002"
    save(checkpoints, 6, **{"reward/mean": 1.0})
    assert names(tmp_path) == ["best", "update_000005", "update_000006"]
    assert (tmp_path / "best" / "trainer" / "actor" / "weights").read_text() == "weights"


def test_an_unknown_metric_is_refused_with_those_there_are(tmp_path: Path, disk: SlowDisk) -> None:
    """After the checkpoint has its name: nothing of the policy update is lost."""
    checkpoints = keeper(tmp_path, disk, keep_best=1, best_metric="reward/maen")
    with pytest.raises(RunFailed, match=r"did you mean 'reward/mean'\? There are: accuracy, reward/mean"):
        save(checkpoints, 1, **{"reward/mean": 0.5, "accuracy": 1.0})
    assert names(tmp_path) == ["update_000001"]


def test_a_stage_that_begins_anew_leaves_nothing_of_its_earlier_attempt(tmp_path: Path, disk: SlowDisk) -> None:
    checkpoints = keeper(tmp_path, disk)
    checkpoints.link(save(checkpoints, 1), "rl")
    save(checkpoints, 2)
    checkpoints.shelf.forget("rl")
    assert names(tmp_path) == ["rl"]


@st.composite
def shelves(draw: st.DrawFn) -> list[Kept]:
    numbers = draw(st.lists(st.integers(1, 30), unique=True, max_size=12))
    rewards = st.none() | st.floats(-1, 1) | st.just(math.nan)
    kept = []
    for order, number in enumerate(numbers):
        reward = draw(rewards)
        prefix = draw(st.sampled_from(["update_", "step_", "stage"]))
        metrics = {} if reward is None else {"reward/mean": reward}
        kept.append(Kept(f"{prefix}{number:06d}", "rl", number, number, float(order), 1, metrics))
    return kept


@given(shelves(), st.integers(1, 4), st.integers(0, 4), st.booleans())
def test_what_stays_is_newest_best_or_the_end_of_a_stage(
    kept: list[Kept], newest: int, best: int, smaller: bool
) -> None:
    metric = Metric("reward/mean", smaller)
    stay = retained(kept, newest=newest, best=best, metric=metric)
    updates = [one for one in kept if one.name.startswith("update_")]
    steps = [one for one in kept if one.name.startswith("step_")]
    assert {one.name for one in updates[-newest:] + steps[-newest:]} <= stay
    assert {one.name for one in kept if one.name.startswith("stage")} <= stay
    chosen = [one for one in updates if one.name in stay and one not in updates[-newest:]]
    assert len(chosen) <= best
    gone = [metric.rank(one.metrics) for one in updates if one.name not in stay]
    assert all(metric.rank(one.metrics) >= max(gone, default=-math.inf) for one in chosen)
    if best and any(metric.rank(one.metrics) > -math.inf for one in updates):
        assert best_of(kept, metric) in stay


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Of a store that forgets what it held when the test ends."""
    if request.param == "file":
        yield f"file://{tmp_path / 'store'}"
        return
    yield "memory://store/run"
    fsspec.filesystem("memory").rm("/store", recursive=True)


def test_what_is_gone_or_torn_here_comes_back_from_the_mirror(tmp_path: Path, disk: SlowDisk, url: str) -> None:
    root = tmp_path / "run"
    root.mkdir()
    checkpoints = keeper(root, disk, mirror=CheckpointMirror(url), keep_checkpoints=2, keep_best=1)
    for number, reward in enumerate([0.9, 0.2, 0.3, 0.4], start=1):
        save(checkpoints, number, **{"reward/mean": reward})
    checkpoints.link("update_000004", "rl")
    checkpoints.close()
    there = CheckpointMirror(url)
    assert [one.name for one in there.kept()] == ["update_000001", "update_000003", "rl", "update_000004"]
    (root / "update_000004" / "trainer" / "actor" / "weights").unlink()
    elsewhere = keeper(tmp_path / "elsewhere", disk, mirror=there)
    for shelf in (checkpoints, elsewhere):
        folder, state = shelf.open("update_000004")
        assert (folder / "actor" / "weights").read_text() == "weights" and state["version"] == 4
    with pytest.raises(RunFailed, match="no complete checkpoint update_000002; it has update_000001"):
        there.fetch("update_000002", tmp_path / "nothing")


def test_a_half_copied_checkpoint_is_never_read(tmp_path: Path, disk: SlowDisk, url: str) -> None:
    checkpoints = keeper(tmp_path / "run", disk, mirror=CheckpointMirror(url))
    save(checkpoints, 1)
    checkpoints.close()
    store, root = fsspec.core.url_to_fs(url)
    store.pipe_file(f"{root}/update_000001/trainer/actor/weights", b"wei")
    with pytest.raises(RunFailed, match=r"cannot be fetched .*weights is torn"):
        CheckpointMirror(url).fetch("update_000001", tmp_path / "there")
    store.rm_file(f"{root}/update_000001/{SEAL}")
    assert CheckpointMirror(url).kept() == [] and not CheckpointMirror(url).has("update_000001")


def test_the_seal_is_copied_last(tmp_path: Path, disk: SlowDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    checkpoints = keeper(tmp_path / "run", disk)
    save(checkpoints, 1)
    mirror = CheckpointMirror(f"file://{tmp_path / 'store'}")
    put = mirror._fs.put_file
    monkeypatch.setattr(
        mirror._fs, "put_file", lambda path, to: (order.append(path.split("update_000001/")[1]), put(path, to))
    )
    mirror.send(tmp_path / "run" / "update_000001")
    mirror.wait()
    assert order[-3:] == ["trainer/actor/manifest.json", "trainer/manifest.json", "manifest.json"]
    assert sorted(order[:-3]) == ["state.json", "trainer/actor/weights"]


def test_a_copy_that_fails_for_good_is_told_with_its_reason(
    tmp_path: Path, disk: SlowDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.checkpoint_mirror.ATTEMPTS", 1)
    (tmp_path / "store").write_text("a file where the folder should be")
    mirror = CheckpointMirror(f"file://{tmp_path / 'store'}")
    checkpoints = keeper(tmp_path / "run", disk, mirror=mirror)
    save(checkpoints, 1)
    with pytest.raises(RunFailed, match=r"update_000001 could not be copied to file:.*store"):
        checkpoints.close()
    with pytest.raises(ConfigError, match=r"run\.checkpoint_url: file:.*store cannot be written"):
        mirror.probe()


def test_a_url_that_nothing_here_can_open_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="checkpoints cannot be kept at nowhere://x"):
        CheckpointMirror("nowhere://x")


def test_the_state_of_a_checkpoint_is_what_it_was_when_it_began(tmp_path: Path, disk: SlowDisk) -> None:
    checkpoints, losses = keeper(tmp_path, disk, background=True), [1.0]
    disk.go.clear()
    state = {"version": 1, "progress": {"losses": losses}}
    checkpoints.begin("step_sft_000001", state, stage="sft", named=lambda: None)
    losses.append(0.5)
    disk.go.set()
    assert checkpoints.open("step_sft_000001")[1]["progress"] == {"losses": [1.0]}
    seal = json.loads((tmp_path / "step_sft_000001" / SEAL).read_text())
    assert seal["about"]["stage"] == "sft" and seal["about"]["update"] == -1

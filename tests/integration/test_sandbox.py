"""What a reward function may do to the others: nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import hostile_rewards  # noqa: F401  registers the functions used here
import hungry_reward  # noqa: F401
import psutil
import pytest

from rewards import RewardError, RewardSpec, RewardTerm, Sample, Scorer, Verdict

LIMIT_S = 1.0
MEMORY_MB = 256


def sample(deed: str, number: int = 0) -> Sample:
    question = {
        "prompt": deed, "answer": "violin", "answer_kind": "choice", "choices": ["dog", "violin"], "tolerance": 0.0, "audio": []
    }  # fmt: skip
    return Sample(f"t/{number}", question, "violin", "", "violin", False, True, 1, 0)


def spec(*names: str, timeout_s: float = LIMIT_S, memory_mb: int = MEMORY_MB) -> RewardSpec:
    terms = tuple(RewardTerm(name, 1.0, "any") for name in names)
    return RewardSpec(terms, timeout_s=timeout_s, memory_mb=memory_mb, workers=1)


@pytest.fixture(scope="module")
def scorer() -> Iterator[Scorer]:
    with Scorer(spec("hostile")) as started:
        yield started


REASONS = {
    "loop": "hostile timed out after 1.0 s and was killed",
    "regex": "hostile timed out after 1.0 s and was killed",
    "power": "hostile timed out after 1.0 s and was killed",
    "sleep": "hostile timed out after 1.0 s and was killed",
    "flood": "hostile timed out after 1.0 s and was killed",
    "raise": "hostile raised ValueError: no such option",
    "unreadable": "hostile raised Unreadable: (its message can't be read)",
    "exit": "hostile raised SystemExit: 3",
    "interrupt": "hostile raised KeyboardInterrupt",
    "nan": "hostile returned nan, not a finite number",
    "inf": "hostile returned inf, not a finite number",
    "none": "hostile returned None",
    "text": "hostile returned str, not a number",
    "list": "hostile returned list, not a number",
    "bomb": "hostile ran out of memory (limit 256 MB)",
    "huge": "hostile ran out of memory (limit 256 MB)",
    "_exit": "hostile ended its process (exit status 5)",
    "child": "hostile raised PermissionError: [Errno 1] Operation not permitted",
    "segfault": "hostile ended its process (killed by SIGSEGV)",
    "kill": "hostile ended its process (killed by SIGKILL)",
    "deep": "hostile raised RecursionError: maximum recursion depth exceeded",
}


@pytest.fixture(scope="module")
def judged(scorer: Scorer) -> dict[str, tuple[Verdict, Verdict]]:
    """One batch: every deed, each followed by a good sample. Verdicts of the deed and of its neighbour."""
    batch = [sample(kind, i) for i, deed in enumerate(REASONS) for kind in (deed, "good")]
    verdicts = scorer.score(batch)
    return dict(zip(REASONS, zip(verdicts[::2], verdicts[1::2], strict=True), strict=True))


@pytest.mark.parametrize("deed", REASONS)
def test_a_failure_is_invalid_with_its_reason_and_its_neighbour_is_scored(
    judged: dict[str, tuple[Verdict, Verdict]], deed: str
) -> None:
    failed, neighbour = judged[deed]
    assert failed == Verdict.invalid(failed.reason)
    assert failed.reason.startswith(REASONS[deed])
    assert neighbour == Verdict(valid=True, score=1.0, components={"hostile": 1.0})


def test_printing_is_harmless_and_a_long_message_is_cut(scorer: Scorer) -> None:
    printed, long, flag = scorer.score([sample("print"), sample("long"), sample("bool")])
    assert printed.score == flag.score == 1.0
    assert "xxx" in long.reason and len(long.reason) < 600


@pytest.mark.parametrize("deed", ["close", "garbage"])
def test_breaking_the_channel_costs_only_its_own_sample(scorer: Scorer, deed: str) -> None:
    before, broken, after = scorer.score([sample("good"), sample(deed), sample("good")])
    assert not broken.valid and "hostile" in broken.reason
    assert before.score == after.score == 1.0


def test_memory_that_earlier_samples_leaked_is_not_blamed_on_later_ones(scorer: Scorer) -> None:
    assert all(verdict.score == 1.0 for verdict in scorer.score([sample("leak", i) for i in range(12)]))


def test_a_function_can_not_change_what_others_see() -> None:
    with Scorer(spec("vandal", "harmless")) as scorer:
        assert [v.components for v in scorer.score([sample("good")] * 2)] == [{"vandal": 1.0, "harmless": 1.0}] * 2


def test_a_hanging_term_leaves_the_other_terms_scores() -> None:
    with Scorer(spec("hostile", "harmless")) as scorer:
        (verdict,) = scorer.score([sample("loop")])
    assert verdict == Verdict.invalid(REASONS["loop"], {"harmless": 1.0})


def test_the_environment_does_not_reach_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_PARENT", "1")
    with Scorer(spec("hostile")) as scorer:
        assert scorer.score([sample("environment")])[0].score == 1.0


def test_processes_started_by_a_function_die_with_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MGRD_REWARD_ISOLATION", "limits")  # full isolation lets none be started
    with Scorer(spec("hostile")) as scorer:
        assert scorer.score([sample("fork")])[0].score == 1.0
        mine = [p for p in psutil.process_iter() if os.getpgid(p.pid) == scorer.sandbox.pid]
        assert len(mine) == 2
    _, alive = psutil.wait_procs(mine, timeout=5)
    assert not alive


def test_a_process_that_dies_between_batches_is_replaced_and_nobody_is_blamed() -> None:
    with Scorer(spec("hostile")) as scorer:
        child = psutil.Process(scorer.sandbox.pid)
        child.kill()
        child.wait(5)
        assert scorer.score([sample("good")])[0].score == 1.0
        assert scorer.sandbox.processes_started == 2


def test_a_hang_is_noticed_soon_after_its_limit(scorer: Scorer) -> None:
    began = time.monotonic()
    scorer.score([sample("loop")])
    assert LIMIT_S <= time.monotonic() - began < LIMIT_S + 5


def test_starting_is_quick_and_loads_nothing_heavy() -> None:
    names = "import sys, rewards.sandbox_child; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", names], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "ray", "vllm", "numpy", "transformers"} & set(loaded)
    with Scorer(spec("answer", "think_present")) as scorer:
        assert cpu_seconds(scorer) < 0.5


def cpu_seconds(scorer: Scorer) -> float:
    """Time the scoring process has computed: unlike the clock, the same on a busy machine."""
    times = psutil.Process(scorer.sandbox.pid).cpu_times()
    return times.user + times.system


def test_256_samples_cost_less_than_50_ms() -> None:
    with Scorer(spec("answer", "think_present")) as scorer:
        batch = [sample("good", i) for i in range(256)]
        assert all(verdict.valid for verdict in scorer.score(batch))
        there, here = cpu_seconds(scorer), time.process_time()
        for _ in range(10):
            scorer.score(batch)
        seconds = (cpu_seconds(scorer) - there + time.process_time() - here) / 10
        assert scorer.sandbox.processes_started == 1
    assert seconds < 0.05


def test_too_little_memory_is_an_error_at_the_start() -> None:
    with pytest.raises(RewardError, match=r"did not start.*memory limit 128 MB"), Scorer(spec("hungry", memory_mb=128)):
        pass


@pytest.mark.chaos
def test_the_process_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from test_sandbox import Scorer, sample, spec\n"
        "with Scorer(spec('hostile', timeout_s=600.0)) as scorer:\n"
        "    print(scorer.sandbox.pid, flush=True)\n"
        "    scorer.score([sample('loop')])\n"
    )
    parent = subprocess.Popen(
        [sys.executable, str(script), str(Path(__file__).parent)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait(10)
    parent.stdout.close()
    child.wait(5)
    assert not child.is_running()

"""What functions need in order to load and to work in a scoring process, and what is said when they can't."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import broken_import_reward  # noqa: F401  registers the functions used here
import library_rewards
import numpy as np
import pytest
import slow_import_reward  # noqa: F401
import soundfile
from sandbox_room import room, sample

from rewards.errors import RewardError
from rewards.messages import RewardTerm, Sample
from rewards.registry import resolve
from rewards.sample_wire import encode_sample
from rewards.sandbox import Sandbox
from rewards.sandbox_wire import Limits, Unit


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    sandbox = Sandbox(
        [resolve(RewardTerm("using", 1.0, "any"))],
        limits=Limits(120.0, memory_mb=4096),
        sys_path=[path for path in sys.path if path],
    )
    sandbox.start()
    yield sandbox
    sandbox.close()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One second of 440 Hz."""
    path = tmp_path_factory.mktemp("clips") / "tone.wav"
    soundfile.write(path, np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000), 16_000)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("library", library_rewards.USES)
def test_a_library_works_in_full_isolation(libraries: Sandbox, clip: Path, library: str) -> None:
    told = sample(library)
    told.question["audio"] = [{"path": str(clip), "seconds": 1.0}]
    (outcome,) = libraries.score([encode_sample(told)], [Unit(0, 0)])
    assert outcome.reason == ""
    assert outcome.score == 1.0
    assert libraries.processes_started == 1


def test_a_failing_import_is_named_at_the_start() -> None:
    with (
        pytest.raises(
            RewardError, match=r"importing .*broken_import_reward.py for broken_import raised ModuleNotFoundErr"
        ),
        room("slow_import", "broken_import", environment={"BROKEN": "1"}),
    ):
        pass


def test_a_slow_import_is_named_at_the_start() -> None:
    with (
        pytest.raises(RewardError, match=r"importing .*slow_import_reward.py for slow_import took longer than 2.0 s"),
        room("broken_import", "slow_import", environment={"SLOW": "1"}, start_s=2.0),
    ):
        pass


def test_a_function_that_loads_scores() -> None:
    lines = [encode_sample(Sample("t", sample("x").question, "", "", "four", False, True, 1, 0))]
    with room("broken_import", "slow_import") as there:
        outcomes = there.sandbox.score(lines, [Unit(0, 0), Unit(0, 1)])
    assert [outcome.score for outcome in outcomes] == [4.0, 4.0]

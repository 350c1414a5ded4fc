"""All bundles of a run are reserved at once, or none."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

SCRIPT = """
import sys
from pathlib import Path

import ray

from orchestrator.embedded import EmbeddedServices
from orchestrator.gang import Gang, NoPlace
from orchestrator.service.messages import Bundle, Demand
from rollout import LogFile


def where(place):
    worker = ray.remote(num_cpus=1)(lambda: "worked")
    return worker.options(scheduling_strategy=place.strategy("DEFAULT")).remote()


with EmbeddedServices(Path(sys.argv[1])) as services:
    services.ray(num_cpus=3)
    first = Gang(Demand((Bundle(cpus=1.0),) * 2), "first")
    first.reserve(30.0)
    log = lambda number: LogFile.of(Path(sys.argv[1]), f"rollout/{number}")
    assert ray.get([where(place) for place in first.places(range(2), log)], timeout=60) == ["worked"] * 2
    try:
        Gang(Demand((Bundle(cpus=1.0),) * 2), "second").reserve(0.5)
    except NoPlace as error:
        print(error)
    assert ray.available_resources().get("CPU") == 1.0, "what did not fit holds nothing"
    first.release()
    third = Gang(Demand((Bundle(cpus=3.0),)), "third")
    third.reserve(30.0)
    third.release()
    third.release()
"""


def test_a_gang_is_reserved_whole_or_not_at_all(tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "no room for 2 x 1 CPU at the same time within 0.5 s" in done.stdout

"""Experiments as the service sends them, for tests of what clients make of them."""

from __future__ import annotations

import dataclasses

from orchestrator.service.messages import Demand, Experiment, Priority, State


def experiment(**changes: object) -> Experiment:
    plain = Experiment(
        id="demo-4f0c21",
        name="demo",
        user="anna",
        state=State.RUNNING,
        priority=Priority.NORMAL,
        overrides=("experiment=demo",),
        demand=Demand(),
        submitted_at=0.0,
        run_dir="/runs/demo-4f0c21",
        config_sha256="",
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]

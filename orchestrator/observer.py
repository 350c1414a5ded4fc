"""Who watches a run: told what happens, asked at its boundaries whether to go on.

Neighbours: `controller`, `conductor` and `stages` tell; the service's job tells its store; `mgrd run` has nobody watching.
Invariants: what an observer does changes no number of the run; it never waits long; a pause it asks for is raised at a point from
which the run goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from orchestrator.errors import RunPaused
    from orchestrator.stages.scoring import Scored


class Observer(Protocol):
    """Called from the run's own thread, in order."""

    def tracked(self, run_id: str, tracking_uri: str) -> None:
        """The run has its record in MLflow."""

    def planned(self, stages: Sequence[str], updates: int) -> None:
        """Names of the stages in order of work, and policy updates of all of them."""

    def stage_began(self, stage: str) -> None: ...

    def stage_ended(self, stage: str, seconds: float, *, before: bool) -> None:
        """seconds: of all its attempts; before: it was done when this start began."""

    def updated(self, record: dict[str, Any]) -> None:
        """A policy update is recorded: `update`, `stage`, `version`, `metrics` by name."""

    def sampled(self, stage: str, update: int, scored: Sequence[Scored]) -> None:
        """What the policy update learned from."""

    def note(self, text: str) -> None:
        """A line for people."""

    def pause(self) -> RunPaused | None:
        """Asked at every policy update, supervised step and stage: why the run should stop here, or None. The run keeps a checkpoint
        before it raises this."""


class Nobody:
    """Watches nothing and wants nothing."""

    def tracked(self, run_id: str, tracking_uri: str) -> None:
        return

    def planned(self, stages: Sequence[str], updates: int) -> None:
        return

    def stage_began(self, stage: str) -> None:
        return

    def stage_ended(self, stage: str, seconds: float, *, before: bool) -> None:
        return

    def updated(self, record: dict[str, Any]) -> None:
        return

    def sampled(self, stage: str, update: int, scored: Sequence[Scored]) -> None:
        return

    def note(self, text: str) -> None:
        return

    def pause(self) -> RunPaused | None:
        return None

"""What a stage is given while it works, and how it keeps what it has done.

Neighbours: `conductor` makes one a stage, the stages use it. Invariants: what was kept is what `progress` holds after
the process died, from the moment its checkpoint has a name; weights and progress are named together, never one without the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actor import StageSettings
    from orchestrator.data_stage import Questions
    from orchestrator.parts import Parts
    from orchestrator.pipeline import Stage

Keep = Callable[[dict[str, Any], str, Mapping[str, float], Callable[[], None]], None]


def _nothing() -> None:
    pass


@dataclass
class StageContext:
    """One stage at work.

    folder: its own, for files; progress: what an interrupted attempt kept, {} on a fresh start; results: of the stages that it
    needs, by name; model: name of the weights that engines and trainer hold, "" for the base; version: of these weights;
    models: names of checkpoints of earlier training stages, in order; updates_before: policy updates of the run before this
    stage; counts, files: for its manifest; changed: the run was resumed with another configuration.
    """

    stage: Stage
    folder: Path
    parts: Parts
    questions: Questions
    progress: dict[str, Any]
    results: Mapping[str, dict[str, Any]]
    model: str
    version: int
    models: tuple[str, ...]
    updates_before: int
    changed: bool
    _keep: Keep
    _borrow: Callable[[str], int]
    _resume: Callable[[StageSettings | None], int]
    _settle: Callable[[], None] = _nothing
    counts: dict[str, Any] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)

    def keep(
        self,
        progress: dict[str, Any],
        checkpoint: str = "",
        *,
        metrics: Mapping[str, float] | None = None,
        then: Callable[[], None] = _nothing,
    ) -> None:
        """Progress on disk; with a checkpoint name also weights, optimizers and random state, under that name.

        A checkpoint may be written while the stage goes on: it holds what was there at this call, and then is called once it has
        its name (`settle`, the next `keep` or the end of the stage see to it). metrics: of the policy update before it, by which
        checkpoints are compared.
        """
        self.progress = progress
        self._keep(progress, checkpoint, metrics or {}, then)

    def settle(self) -> None:
        """Give a checkpoint its name if it has been written meanwhile; call between steps. Raises what its writing raised."""
        self._settle()

    def borrow(self, model: str) -> int:
        """Let engines and trainer hold the weights of an earlier stage (or `self.model` again); returns their version."""
        return self._borrow(model)

    def resume(self, settings: StageSettings | None = None) -> None:
        """Trainer and engines go on at the checkpoint that `progress` was kept with; settings: of the trainer's stage, as they are
        asked for now. A stage that trains calls this first when it has progress."""
        self.version = self._resume(settings)

    def next_version(self) -> int:
        """The version after the present one, for weights that are about to be published."""
        self.version += 1
        return self.version

    def write(self, name: str, text: str) -> Path:
        """A file of the stage, whole or not at all; its digest goes into the manifest."""
        from orchestrator.rundir import write_atomic

        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self.folder / name, text)
        if name not in self.files:
            self.files.append(name)
        return self.folder / name

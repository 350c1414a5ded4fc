"""A critic on ranks of its own: values, its half of a policy update, checkpoints.

Neighbours: `actor.worker` runs it on the ranks behind the actor's, `actor.group` carries weights and values between the two worlds;
`actor.trainer` is the same for a critic that shares the actor's ranks.
Invariants: as `actor.trainer`; there is a critic in stage "ppo" alone; checkpoints lie where the actor's trainer would put them,
so that a critic may move from shared ranks to its own and back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from actor.megatron import checkpoint
from actor.megatron.parallel import World
from actor.messages import Experience, SftExample, UpdateReport
from actor.models import Models
from actor.planning import token_sequence
from actor.ppo import CriticUpdate, check
from actor.publishing import update_tensors
from actor.side import Side
from actor.specs import StageSettings, TrainerSpec
from actor.stored_stage import TrainerError, described, stored_settings
from rollout import FolderWeights, WeightUpdate

FOLDER = "critic"  # of a checkpoint


class CriticTrainer:
    """One rank's critic. world: of the critic's layout."""

    def __init__(self, spec: TrainerSpec, world: World) -> None:
        self.spec = spec
        self.world = world
        self._models = Models(spec, world)
        self._settings = StageSettings("sft")
        self._side: Side | None = None
        self._saving: checkpoint.Saving | None = None

    def begin(self, settings: StageSettings, update: WeightUpdate | None) -> None:
        """Begin a stage; "ppo" takes a critic with the actor's weights in `update` (value head zero) and a fresh optimizer."""
        if settings.stage == "ppo" and update is None:
            raise TrainerError('the critic begins stage "ppo" with the actor\'s weights; none were given')
        self._begin(settings, update_tensors(update) if update is not None else ())

    def _begin(self, settings: StageSettings, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        self._settings, self._side = settings, None
        if settings.stage != "ppo":
            return
        model = self._models.critic(self.world, tensors, with_adapter=True)
        self._side = self._models.side(model, self.world, self._models.bank(model, self.world))
        self._side.learner.reset_optimizer(settings.critic_optim or self.spec.critic_optim)

    def values(self, items: Sequence[Experience | SftExample]) -> list[np.ndarray]:
        """Value [R] of the state before each response token; float32. Raises TrainerError outside of stage "ppo"."""
        side = self._need_critic()
        step = side.whole([token_sequence(item) for item in items])
        return [values.numpy() for values in side.run(step, lambda output: output)]

    def update(
        self, experiences: Sequence[Experience], rng_seed: int, old_values: Sequence[np.ndarray]
    ) -> UpdateReport:
        """The critic's half of a policy update; old_values: from `values` on the same experiences."""
        check(experiences)
        half = CriticUpdate(self._need_critic(), self._settings.ppo_spec(self.spec), experiences, rng_seed)
        return half.run([torch.from_numpy(values) for values in old_values])

    def save(self, directory: str) -> None:
        """Model, optimizer, schedule and random state into `directory`; nothing outside of stage "ppo"."""
        self.begin_save(directory, background=False)
        self.finish_save()

    def begin_save(self, directory: str, background: bool) -> None:
        """As `Trainer.begin_save`; the folder that both write into is sealed by the actor's ranks."""
        if self._saving is not None:
            raise TrainerError(f"{self._saving.directory} is not finished; call finish_save before another checkpoint")
        if self._side is None:
            return
        about = described(self.spec) | {"stage": self._settings.stage, "layout": str(self.world.layout)}
        self._saving = checkpoint.Saving(
            Path(directory),
            [self._part(self._side)],
            self.world,
            texts={},
            about=about,
            whole=False,
            background=background,
        )

    def save_written(self) -> bool:
        """As `Trainer.save_written`."""
        return self._saving is None or self._saving.written

    def finish_save(self) -> None:
        """As `Trainer.finish_save`."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.finish()

    def verify(self, directory: str) -> None:
        """The critic of a checkpoint of stage "ppo" is whole (all ranks call). Raises CheckpointError."""
        if stored_settings(Path(directory), None, self.spec)[0].stage == "ppo":
            checkpoint.verify(Path(directory) / FOLDER, self.world)

    def load(self, directory: str, settings: StageSettings | None = None) -> StageSettings:
        """Continue from what a trainer saved, in this or another layout. Returns and raises what `Trainer.load` does."""
        root = Path(directory)
        self.verify(directory)
        chosen, _ = stored_settings(root, settings, self.spec)
        self._begin(chosen, FolderWeights(self.spec.model_path).items())
        if self._side is not None:
            checkpoint.load(root / FOLDER, self._part(self._side))
        return chosen

    def close(self) -> None:
        """Nothing to give back; as `Trainer.close`."""

    def _part(self, side: Side) -> checkpoint.Part:
        return checkpoint.Part(FOLDER, side.learner.model, side.learner.optimizer, self.world)

    def _need_critic(self) -> Side:
        if self._side is None:
            raise TrainerError('there is no critic; call reset_optimizer("ppo") first')
        return self._side

"""The trainer world as one synchronous object: one Ray actor a rank, every call to all of them, every wait with a limit.

Neighbours: `orchestrator` is its only user; `actor.worker` is what runs in the ranks, `actor.calls` watches them while they work.
Invariants: a rank that dies, fails, falls silent or gets no further ends the whole world and raises `TrainerDied` with rank and cause;
`start` then makes another world in the same places; no rank survives `shutdown`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from actor.calls import RankActors, Start
from actor.heartbeat import WatchLimits
from actor.messages import Experience, PreferencePair, SftExample, UpdateReport
from actor.specs import DpoSpec, OptimSpec, PPOSpec, Stage, StageSettings, TrainerSpec

if TYPE_CHECKING:
    import numpy as np

    from actor.publishing import Meeting, Published, PublishSpec
    from rollout import Place, ProbeSequence, WeightUpdate

STEP_TIMEOUT_S = 600.0


def _nothing() -> None:
    pass


class TrainerGroup:
    """All ranks of one trainer. `start` before anything else; step_timeout_s: limit without progress in every later call (a rank that
    enters another phase is progress); limits: of heartbeat and teardown."""

    def __init__(
        self, spec: TrainerSpec, step_timeout_s: float = STEP_TIMEOUT_S, limits: WatchLimits | None = None
    ) -> None:
        self.spec = spec
        self._ranks = RankActors(step_timeout_s, limits or WatchLimits())
        self._places: Sequence[Place] | None = None
        self._settings = StageSettings("sft")  # the stage that `reset_optimizer` began last
        self.kernels = ""  # what the layers run on and why, for people; known once started
        self.before_training: Callable[[], None] = _nothing  # called ahead of every optimizer step

    @property
    def pids(self) -> list[int]:
        """Of the ranks' processes, in rank order."""
        return [process.pid for process in self._ranks.processes]

    def start(self, timeout_s: float, places: Sequence[Place] | None = None) -> None:
        """Start the ranks, join them, build models; also anew after TrainerDied. Needs `ray.init` before. places: one a rank, where it
        runs; None: where it ran before. Raises TrainerDied."""
        limit = Start.within(timeout_s)
        self._places = places or self._places
        self._settings = StageSettings("sft")
        self._ranks.start(self.spec, self._places, limit)
        for world in self._worlds():
            address = self._ranks.call_each([("address", world[:1], ())], limit)[world[0]]
            self._ranks.call_each([("open", world, (address,))], limit)
        self.kernels = self._ranks.call_each([("kernels", range(1), ())], limit)[0]

    def _worlds(self) -> list[range]:
        """Ranks that form a process group: all of them, or the actor's and the critic's."""
        actor = self.spec.layout.world_size
        return [range(actor)] + ([range(actor, self.spec.world_size)] if self.spec.critic_apart else [])

    @property
    def _actor(self) -> range:
        return self._worlds()[0]

    @property
    def _critic(self) -> range:
        """Ranks that answer for the critic."""
        return self._worlds()[-1]

    def log_probs(self, items: Sequence[Experience | SftExample]) -> list[np.ndarray]:
        """Natural log-probs [R] of each response."""
        return self._call("log_probs", list(items), ranks=self._actor)[0]

    def probe(self, sequences: Sequence[ProbeSequence]) -> list[np.ndarray]:
        """Natural log-probs [R] of each fixed sequence's response."""
        return self._call("log_probs", list(sequences), ranks=self._actor)[0]

    def values(self, items: Sequence[Experience | SftExample]) -> list[np.ndarray]:
        """Values [R] of the states before each response token."""
        return self._call("values", list(items), ranks=self._critic)[0]

    def sft_step(self, examples: Sequence[SftExample]) -> UpdateReport:
        """One optimizer step of supervised training."""
        self.before_training()
        return self._call("sft_step", list(examples), ranks=self._actor)[0]

    def ppo_update(self, experiences: Sequence[Experience], rng_seed: int) -> UpdateReport:
        """One policy update. A critic on ranks of its own finds the old values first; then both halves run at the same time."""
        self.before_training()
        batch = list(experiences)
        if not self.spec.critic_apart:
            return self._call("ppo_update", batch, rng_seed)[0]
        began = time.perf_counter()
        stored = ray.put(batch)
        values = ray.put(self._call("values", stored, ranks=self._critic)[0])
        seconds = time.perf_counter() - began
        halves = {"critic_update": self._critic, "ppo_update": self._actor}
        answers = self._ranks.call_each(
            [(method, ranks, (stored, rng_seed, values)) for method, ranks in halves.items()]
        )
        critic, actor = answers[self._critic[0]], answers[0]
        return UpdateReport(
            actor.metrics | critic.metrics,
            actor.seconds | {"values": seconds, "critic": critic.seconds.get("critic", 0.0)},
        )

    def dpo_step(self, pairs: Sequence[PreferencePair]) -> UpdateReport:
        """One optimizer step of preference training over pairs that carry their reference log-probs."""
        self.before_training()
        return self._call("dpo_step", list(pairs), ranks=self._actor)[0]

    def reference_log_probs(self, pairs: Sequence[PreferencePair]) -> list[tuple[float, float]]:
        """Summed log-probs (chosen, rejected) of each pair under the actor as it is now."""
        return self._call("reference_log_probs", list(pairs), ranks=self._actor)[0]

    def weights(self, version: int) -> WeightUpdate:
        """The actor's weights in one message, stamped with `version`."""
        return self._call("weights", version, ranks=self._actor)[0]

    def memory(self) -> str:
        """Which shared memory rank 0 sees (`rollout.memory_identity`)."""
        return self._call("memory", ranks=range(1))[0]

    def meet(self, spec: PublishSpec, receivers: int) -> Meeting:
        """Where engines with `receivers` workers meet the trainer for a live transport."""
        return self._call("meet", spec, receivers, ranks=range(1))[0]

    def prepare_publish(self, spec: PublishSpec) -> None:
        """Rank 0 makes ready to write shared memory, before engines wait for it. Raises PublishRefused when it cannot."""
        (refused,) = self._call("prepare_publish", spec, ranks=range(1))
        if refused is not None:
            raise refused

    def publish(self, number: int, spec: PublishSpec, timeout_s: float, meeting: Meeting | None = None) -> Published:
        """The actor's weights towards the engines; number: of the publish, growing. Raises PublishRefused when they could not be sent
        (the trainer goes on), TrainerDied as every call."""
        answers = self._call("publish", number, spec, meeting, timeout_s=timeout_s, ranks=self._actor)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers[0]

    def confirm(self, number: int) -> None:
        """Every engine runs what publish `number` brought: earlier ones may be forgotten."""
        self._call("confirm", number, ranks=range(1))

    def reset_optimizer(
        self,
        stage: Stage,
        optim: OptimSpec | None = None,
        *,
        critic_optim: OptimSpec | None = None,
        ppo: PPOSpec | None = None,
        dpo: DpoSpec | None = None,
    ) -> None:
        """Begin stage "sft", "ppo" or "dpo" with a fresh optimizer and schedule; "ppo" also takes a critic from the actor.

        optim (actor), critic_optim and ppo (stage "ppo"), dpo (stage "dpo"): instead of the trainer's own settings, for this
        stage and in its checkpoints.
        """
        self._call("reset_optimizer", stage, optim, critic_optim, ppo, dpo, ranks=self._actor)
        self._settings = StageSettings(stage, optim, critic_optim, ppo, dpo)
        self._begin_critic()

    def _begin_critic(self) -> None:
        """A critic on ranks of its own starts from the actor as it is now."""
        if self.spec.critic_apart:
            update = self.weights(0) if self._settings.stage == "ppo" else None
            self._call("begin_critic", self._settings, update, ranks=self._critic)

    def save(self, directory: str | Path, *, wait: bool = True) -> None:
        """All ranks write a checkpoint into `directory` (the caller names it when it is finished).

        wait=False: returns once every rank has copied its share to host memory; training may go on, and the checkpoint is whole
        when `finish_save` has returned.
        """
        self._call("begin_save", str(directory), not wait)
        if wait:
            self.finish_save()

    def save_written(self) -> bool:
        """Whether `finish_save` would not have to wait for a rank's disk."""
        return all(self._call("save_written"))

    def finish_save(self) -> None:
        """Wait for what `save` began and seal it. A rank that could not write raises TrainerDied with what its disk said."""
        self._call("finish_save")

    def load(self, directory: str | Path, settings: StageSettings | None = None) -> None:
        """Continue from a checkpoint of this or another layout.

        settings: what its stage uses from here on instead of what the checkpoint stores; moments, step counts and the place
        in the schedule stay. Settings of another stage raise TrainerDied, like every failed call. See `Trainer.load`.
        """
        if self.spec.critic_apart:  # one world must not begin to load what the other refuses
            self._call("verify", str(directory))
        self._settings = self._call("load", str(directory), settings)[0]

    def load_weights_only(self, directory: str | Path) -> None:
        """The actor's weights of a checkpoint; the present stage begins anew with them (fresh optimizer)."""
        self._call("load_weights_only", str(directory), ranks=self._actor)
        self._begin_critic()

    def export(self, directory: str | Path) -> None:
        """Write a Hugging Face folder with public weight names, encoder and tokenizer included."""
        self._call("export", str(directory), ranks=self._actor)

    def shutdown(self) -> None:
        """Stop every rank; safe to call twice and after TrainerDied."""
        self._ranks.close()

    def _call(
        self, method: str, *arguments: Any, ranks: Sequence[int] | None = None, timeout_s: float | None = None
    ) -> list[Any]:
        """`method` on `ranks` (None: all) with the same arguments, stored once; results in their order. timeout_s: instead of the
        limit of every call."""
        chosen = range(len(self._ranks)) if ranks is None else ranks
        answers = self._ranks.call_each([(method, chosen, arguments)], progress_s=timeout_s)
        return [answers[rank] for rank in chosen]

"""The trainer world as one synchronous object: one Ray actor a rank, every call to all of them, every wait with a limit.

Neighbours: `orchestrator` is its only user; `actor.worker` is what runs in the ranks.
Invariants: a rank that dies, fails or does not answer ends the whole world (collectives cannot go on without it) and raises
`TrainerDied` with rank and cause; no rank survives `shutdown`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from actor.messages import Experience, PreferencePair, SftExample, UpdateReport
from actor.specs import DpoSpec, OptimSpec, PPOSpec, Stage, StageSettings, TrainerSpec
from actor.worker import TrainerWorker, worker_environment

if TYPE_CHECKING:
    import numpy as np

    from rollout import Place, ProbeSequence, WeightUpdate

log = logging.getLogger(__name__)

# The rank that fails first tells why; the others, stuck in a collective, get this long to be read before they are killed.
STEP_TIMEOUT_S = 600.0
CLOSE_TIMEOUT_S = 10.0


class TrainerDied(RuntimeError):
    """A trainer rank died, failed or did not answer. rank: which one; cause: what it said."""

    def __init__(self, rank: int, cause: str) -> None:
        super().__init__(f"trainer rank {rank}: {cause}")
        self.rank = rank
        self.cause = cause


class TrainerGroup:
    """All ranks of one trainer. `start` before anything else; step_timeout_s: limit of every later call."""

    def __init__(self, spec: TrainerSpec, step_timeout_s: float = STEP_TIMEOUT_S) -> None:
        self.spec = spec
        self._step_timeout_s = step_timeout_s
        self._workers: list[Any] = []
        self.pids: list[int] = []  # of the ranks' processes, in rank order

    def start(self, timeout_s: float, places: Sequence[Place] | None = None) -> None:
        """Start the ranks, join them, build models. Needs `ray.init` before. places: one a rank, where it runs. Raises TrainerDied."""
        deadline = time.monotonic() + timeout_s
        worker = ray.remote(TrainerWorker)
        options: dict[str, Any] = {
            "num_cpus": 1,
            "num_gpus": 1 if self.spec.device == "cuda" else 0,
            "max_restarts": 0,
            "runtime_env": {"env_vars": worker_environment(self.spec)},
        }
        for rank in range(self.spec.world_size):
            place = places[rank] if places else None
            where = place.strategy("DEFAULT") if place else "DEFAULT"
            placed = worker.options(**options, scheduling_strategy=where)
            self._workers.append(placed.remote(self.spec, rank, place.log_file if place else None))
        address = self._collect([self._workers[0].address.remote()], timeout_s, "start")[0]
        self.pids = self._call("open", address, timeout_s=deadline - time.monotonic())

    def log_probs(self, items: Sequence[Experience | SftExample]) -> list[np.ndarray]:
        """Natural log-probs [R] of each response."""
        return self._call("log_probs", list(items))[0]

    def probe(self, sequences: Sequence[ProbeSequence]) -> list[np.ndarray]:
        """Natural log-probs [R] of each fixed sequence's response."""
        return self._call("log_probs", list(sequences))[0]

    def values(self, items: Sequence[Experience | SftExample]) -> list[np.ndarray]:
        """Values [R] of the states before each response token."""
        return self._call("values", list(items))[0]

    def sft_step(self, examples: Sequence[SftExample]) -> UpdateReport:
        """One optimizer step of supervised training."""
        return self._call("sft_step", list(examples))[0]

    def ppo_update(self, experiences: Sequence[Experience], rng_seed: int) -> UpdateReport:
        """One policy update."""
        return self._call("ppo_update", list(experiences), rng_seed)[0]

    def dpo_step(self, pairs: Sequence[PreferencePair]) -> UpdateReport:
        """One optimizer step of preference training over pairs that carry their reference log-probs."""
        return self._call("dpo_step", list(pairs))[0]

    def reference_log_probs(self, pairs: Sequence[PreferencePair]) -> list[tuple[float, float]]:
        """Summed log-probs (chosen, rejected) of each pair under the actor as it is now."""
        return self._call("reference_log_probs", list(pairs))[0]

    def weights(self, version: int) -> WeightUpdate:
        """The actor's weights for the engines, stamped with `version`."""
        return self._call("weights", version)[0]

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
        self._call("reset_optimizer", stage, optim, critic_optim, ppo, dpo)

    def save(self, directory: str | Path) -> None:
        """All ranks write a checkpoint into `directory` (the caller names it when this returns)."""
        self._call("save", str(directory))

    def load(self, directory: str | Path, settings: StageSettings | None = None) -> None:
        """Continue from a checkpoint of this or another layout.

        settings: what its stage uses from here on instead of what the checkpoint stores; moments, step counts and the place
        in the schedule stay. Settings of another stage raise TrainerDied, like every failed call. See `Trainer.load`.
        """
        self._call("load", str(directory), settings)

    def load_weights_only(self, directory: str | Path) -> None:
        """The actor's weights of a checkpoint; the present stage begins anew with them (fresh optimizer)."""
        self._call("load_weights_only", str(directory))

    def export(self, directory: str | Path) -> None:
        """Write a Hugging Face folder with public weight names, encoder and tokenizer included."""
        self._call("export", str(directory))

    def shutdown(self) -> None:
        """Stop every rank; safe to call twice and after TrainerDied."""
        workers, self._workers = self._workers, []
        if not workers:
            return
        try:
            ray.wait([w.close.remote() for w in workers], num_returns=len(workers), timeout=CLOSE_TIMEOUT_S)
        except RayError as error:
            log.info("a trainer rank was gone before it was closed: %s", error)
        for worker in workers:
            ray.kill(worker, no_restart=True)

    def _call(self, method: str, *arguments: Any, timeout_s: float | None = None) -> list[Any]:
        """`method` on every rank with the same arguments (stored once); results in rank order."""
        if not self._workers:
            raise TrainerDied(0, f"{method} was called, but the trainer is not running; call start first")
        stored = [ray.put(argument) for argument in arguments]
        references = [getattr(worker, method).remote(*stored) for worker in self._workers]
        return self._collect(references, self._step_timeout_s if timeout_s is None else timeout_s, method)

    def _collect(self, references: list[Any], timeout_s: float, method: str) -> list[Any]:
        """Wait for all ranks, stop at the first that fails. Kills the world before it raises TrainerDied."""
        deadline = time.monotonic() + timeout_s
        waiting = list(references)
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
            if not done:
                rank = references.index(waiting[0])
                raise self._died(rank, f"no answer to {method} within {timeout_s:.0f} s")
            rank = references.index(done[0])
            try:
                ray.get(done[0], timeout=max(1.0, deadline - time.monotonic()))
            except RayTaskError as error:
                raise self._died(rank, f"{method} failed: {type(error.cause).__name__}: {error.cause}") from error
            except RayActorError as error:
                raise self._died(rank, f"the process died during {method}: {error}") from error
            except GetTimeoutError as error:
                raise self._died(rank, f"the result of {method} did not arrive within {timeout_s:.0f} s") from error
        return ray.get(references)

    def _died(self, rank: int, cause: str) -> TrainerDied:
        workers, self._workers = self._workers, []
        for worker in workers:
            ray.kill(worker, no_restart=True)
        return TrainerDied(rank, cause)

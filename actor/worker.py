"""One rank of the trainer as a Ray actor: a thin shell around `actor.trainer.Trainer`.

Neighbours: `actor.group` speaks for all ranks, `actor.calls` starts one actor a rank; `actor.phases` keeps what the rank is doing.
Invariants: threads and allocator are set by the environment before torch is imported (see `worker_environment`), so this
module imports no torch at its top; calls run one at a time, in the order sent, on one thread; `beat` alone is answered beside
them, on a thread of its own.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actor import faults, phases
from actor.messages import Experience, PreferencePair, SftExample, UpdateReport
from actor.ranks import RankProcess, this_process
from actor.specs import DpoSpec, OptimSpec, PPOSpec, Stage, StageSettings, TrainerSpec
from rollout import log_to

if TYPE_CHECKING:
    import numpy as np

    from actor.publishing import Meeting, Published, PublishRefused, PublishSpec
    from rollout import LogFile, ProbeSequence, WeightUpdate

log = logging.getLogger(__name__)

WATCHING = "watching"  # Ray's concurrency group of `beat`: a thread that no call of the trainer occupies
PHASE_SUFFIX = ".phase"  # of the file beside a rank's log that holds its present phase


def phase_file(log_file: LogFile | None) -> Path | None:
    """Where a rank that logs there keeps its phase."""
    return Path(log_file.path).with_suffix(PHASE_SUFFIX) if log_file else None


def worker_environment(spec: TrainerSpec) -> dict[str, str]:
    """Environment of a rank's process.

    The MALLOC_* limits keep freed activations inside the process: with glibc's defaults every tensor above 128 KiB is mapped
    and unmapped anew, which costs a tenth to a third of an update's time on a CPU.
    """
    threads = str(spec.threads)
    planned = {name: os.environ[name] for name in (faults.VARIABLE,) if name in os.environ}
    return planned | {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "CUDA_DEVICE_MAX_CONNECTIONS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
        "MALLOC_TRIM_THRESHOLD_": str(2**31),
        "MALLOC_TOP_PAD_": str(64 * 2**20),
    }


class TrainerWorker:
    """Becomes a Ray actor in `actor.group`. `open` first, then any of the trainer's calls."""

    def __init__(self, spec: TrainerSpec, rank: int, log_file: LogFile | None = None) -> None:
        log_to(log_file)
        phases.begin(rank, phase_file(log_file))
        self.spec = spec
        self.rank = rank
        self._trainer: Any = None

    def identify(self) -> RankProcess:
        return this_process()

    def beat(self) -> phases.Beat:
        """Sent to `WATCHING`, so answered whatever else the rank does, unless it is stopped or its interpreter lock is held."""
        return phases.beat()

    def address(self) -> str:
        """host:port where this rank can serve as meeting point of the process group."""
        import ray

        with socket.socket(socket.AF_INET6 if ":" in ray.util.get_node_ip_address() else socket.AF_INET) as probe:
            probe.bind(("", 0))
            port = probe.getsockname()[1]
        return f"{ray.util.get_node_ip_address()}:{port}"

    @phases.within("start")
    def open(self, address: str) -> None:
        """Join the process group at `address` (the critic's, on a rank of its own), build the models."""
        import torch

        torch.set_num_threads(self.spec.threads)
        from actor.critic_trainer import CriticTrainer
        from actor.megatron.parallel import open_world
        from actor.trainer import Trainer

        spec, behind = self.spec, self.rank - self.spec.layout.world_size
        layout, number = (spec.layout, self.rank) if behind < 0 else (spec.of_critic, behind)
        world = open_world(layout, number, f"tcp://{address}", device=spec.device, seed=spec.seed)
        self._trainer = Trainer(spec, world) if behind < 0 else CriticTrainer(spec, world)
        log.info("trainer rank %d of %d ready, pid %d", self.rank, spec.world_size, os.getpid())

    def kernels(self) -> str:
        return str(self._trainer.kernels)

    @phases.within("log-probs")
    def log_probs(self, items: Sequence[Experience | SftExample | ProbeSequence]) -> list[np.ndarray]:
        return self._trainer.log_probs(items)

    @phases.within("values")
    def values(self, items: Sequence[Experience | SftExample]) -> list[np.ndarray]:
        return self._trainer.values(items)

    @phases.within("supervised step")
    def sft_step(self, examples: Sequence[SftExample]) -> UpdateReport:
        return self._trainer.sft_step(examples)

    @phases.within("policy update")
    def ppo_update(
        self, experiences: Sequence[Experience], rng_seed: int, old_values: Sequence[np.ndarray] | None = None
    ) -> UpdateReport:
        return self._trainer.ppo_update(experiences, rng_seed, old_values)

    @phases.within("new critic")
    def begin_critic(self, settings: StageSettings, update: WeightUpdate | None) -> None:
        self._trainer.begin(settings, update)

    @phases.within("critic update")
    def critic_update(
        self, experiences: Sequence[Experience], rng_seed: int, old_values: Sequence[np.ndarray]
    ) -> UpdateReport:
        return self._trainer.update(experiences, rng_seed, old_values)

    @phases.within("preference step")
    def dpo_step(self, pairs: Sequence[PreferencePair]) -> UpdateReport:
        return self._trainer.dpo_step(pairs)

    @phases.within("reference log-probs")
    def reference_log_probs(self, pairs: Sequence[PreferencePair]) -> list[tuple[float, float]]:
        return self._trainer.reference_log_probs(pairs)

    @phases.within("publish")
    def weights(self, version: int) -> WeightUpdate | None:
        return self._trainer.weights(version)

    def memory(self) -> str:
        """Equal to an engine's where both see the same shared memory."""
        from rollout import memory_identity

        return memory_identity()

    def meet(self, spec: PublishSpec, receivers: int) -> Meeting:
        import ray

        return self._trainer.meet(spec, ray.util.get_node_ip_address(), receivers)

    def prepare_publish(self, spec: PublishSpec) -> PublishRefused | None:
        return self._trainer.prepare_publish(spec)

    @phases.within("publish")
    def publish(self, number: int, spec: PublishSpec, meeting: Meeting | None) -> Published | PublishRefused | None:
        return self._trainer.publish(number, spec, meeting)

    def confirm(self, number: int) -> None:
        self._trainer.confirm(number)

    @phases.within("new optimizer")
    def reset_optimizer(
        self,
        stage: Stage,
        optim: OptimSpec | None,
        critic_optim: OptimSpec | None,
        ppo: PPOSpec | None,
        dpo: DpoSpec | None,
    ) -> None:
        self._trainer.reset_optimizer(stage, optim, critic_optim, ppo, dpo)

    @phases.within("checkpoint copy")
    def begin_save(self, directory: str, background: bool) -> None:
        self._trainer.begin_save(directory, background)

    def save_written(self) -> bool:
        return self._trainer.save_written()

    @phases.within("checkpoint seal")
    def finish_save(self) -> None:
        self._trainer.finish_save()

    @phases.within("checkpoint check")
    def verify(self, directory: str) -> None:
        self._trainer.verify(directory)

    @phases.within("checkpoint read")
    def load(self, directory: str, settings: StageSettings | None = None) -> StageSettings:
        return self._trainer.load(directory, settings)

    @phases.within("checkpoint read")
    def load_weights_only(self, directory: str) -> None:
        self._trainer.load_weights_only(directory)

    @phases.within("export")
    def export(self, directory: str) -> None:
        self._trainer.export(directory)

    def close(self) -> None:
        """Give back what was published, leave the process group."""
        if self._trainer is not None:
            from actor.megatron.parallel import close_world

            self._trainer.close()
            self._trainer = None
            close_world()

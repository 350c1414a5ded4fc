"""One rank of the trainer as a Ray actor: a thin shell around `actor.trainer.Trainer`.

Neighbours: `actor.group` starts one a rank and speaks for all of them.
Invariants: threads and allocator are set by the environment before torch is imported (see `worker_environment`), so this
module imports no torch at its top; calls run one at a time, in the order sent.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from actor.messages import Experience, PreferencePair, SftExample, UpdateReport
from actor.specs import DpoSpec, OptimSpec, PPOSpec, Stage, StageSettings, TrainerSpec
from rollout import log_to

if TYPE_CHECKING:
    import numpy as np

    from rollout import LogFile, ProbeSequence, WeightUpdate

log = logging.getLogger(__name__)


def worker_environment(spec: TrainerSpec) -> dict[str, str]:
    """Environment of a rank's process.

    The MALLOC_* limits keep freed activations inside the process: with glibc's defaults every tensor above 128 KiB is mapped
    and unmapped anew, which costs a tenth to a third of an update's time on a CPU.
    """
    threads = str(spec.threads)
    return {
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
        self.spec = spec
        self.rank = rank
        self._trainer: Any = None

    def address(self) -> str:
        """host:port where this rank can serve as meeting point of the process group."""
        import ray

        with socket.socket(socket.AF_INET6 if ":" in ray.util.get_node_ip_address() else socket.AF_INET) as probe:
            probe.bind(("", 0))
            port = probe.getsockname()[1]
        return f"{ray.util.get_node_ip_address()}:{port}"

    def open(self, address: str) -> int:
        """Join the process group at `address`, build the models. Returns the process id."""
        import torch

        torch.set_num_threads(self.spec.threads)
        from actor.megatron.parallel import open_world
        from actor.trainer import Trainer

        self._trainer = Trainer(self.spec, open_world(self.spec, self.rank, f"tcp://{address}"))
        log.info("trainer rank %d of %d ready, pid %d", self.rank, self.spec.world_size, os.getpid())
        return os.getpid()

    def log_probs(self, items: Sequence[Experience | SftExample | ProbeSequence]) -> list[np.ndarray]:
        return self._trainer.log_probs(items)

    def values(self, items: Sequence[Experience | SftExample]) -> list[np.ndarray]:
        return self._trainer.values(items)

    def sft_step(self, examples: Sequence[SftExample]) -> UpdateReport:
        return self._trainer.sft_step(examples)

    def ppo_update(self, experiences: Sequence[Experience], rng_seed: int) -> UpdateReport:
        return self._trainer.ppo_update(experiences, rng_seed)

    def dpo_step(self, pairs: Sequence[PreferencePair]) -> UpdateReport:
        return self._trainer.dpo_step(pairs)

    def reference_log_probs(self, pairs: Sequence[PreferencePair]) -> list[tuple[float, float]]:
        return self._trainer.reference_log_probs(pairs)

    def weights(self, version: int) -> WeightUpdate | None:
        return self._trainer.weights(version)

    def reset_optimizer(
        self,
        stage: Stage,
        optim: OptimSpec | None,
        critic_optim: OptimSpec | None,
        ppo: PPOSpec | None,
        dpo: DpoSpec | None,
    ) -> None:
        self._trainer.reset_optimizer(stage, optim, critic_optim, ppo, dpo)

    def save(self, directory: str) -> None:
        self._trainer.save(directory)

    def load(self, directory: str, settings: StageSettings | None = None) -> None:
        self._trainer.load(directory, settings)

    def load_weights_only(self, directory: str) -> None:
        self._trainer.load_weights_only(directory)

    def export(self, directory: str) -> None:
        self._trainer.export(directory)

    def close(self) -> None:
        """Leave the process group."""
        if self._trainer is not None:
            from actor.megatron.parallel import close_world

            self._trainer = None
            close_world()

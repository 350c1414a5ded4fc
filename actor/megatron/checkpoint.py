"""One model with its optimizer, schedule and random state through Megatron's distributed checkpoint, any layout to any layout.

Neighbours: `actor.trainer` saves actor and critic into folders of their own; the orchestrator names a checkpoint once the
whole folder is written.
Invariants: what is loaded in the same layout continues with equal bits; another layout gets equal parameters and optimizer
state; files are written in this process (Megatron's default writer starts helper processes, seconds each on a small box).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from actor.megatron.device import ensure_importable
from actor.megatron.model import AudioGPT
from actor.megatron.optimizer import Optimizer
from actor.megatron.parallel import World

ensure_importable()

from megatron.core import dist_checkpointing  # noqa: E402
from megatron.core.dist_checkpointing.core import CheckpointingException  # noqa: E402
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedStateDict  # noqa: E402
from megatron.core.dist_checkpointing.strategies.torch import (  # noqa: E402
    MCoreSavePlanner,
    TorchDistSaveShardedStrategy,
    _replace_state_dict_keys_with_sharded_keys,
    mcore_to_pyt_state_dict,
)
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker  # noqa: E402
from torch.distributed import checkpoint as torch_checkpoint  # noqa: E402

log = logging.getLogger(__name__)

# Optimizer shards are stored by parameter, so that another data- or tensor-parallel size can read them.
CONTENT = {
    "distrib_optim_sharding_type": "fully_reshardable",
    "singleton_local_shards": False,
    "chained_optim_avoid_prefix": True,
}
FORMAT = 1


class CheckpointError(RuntimeError):
    """A trainer checkpoint cannot be written or read; the message names the folder."""


class _InProcessSave(TorchDistSaveShardedStrategy):
    """The same file format as Megatron's strategy, written by torch's synchronous writer."""

    def save(self, sharded_state_dict: ShardedStateDict, checkpoint_dir: str | Path) -> None:
        translated, _, _ = _replace_state_dict_keys_with_sharded_keys(sharded_state_dict, self.keep_only_main_replica)
        torch_checkpoint.save(
            mcore_to_pyt_state_dict(translated, False),
            storage_writer=torch_checkpoint.FileSystemWriter(str(checkpoint_dir), thread_count=1, sync_files=True),
            planner=MCoreSavePlanner(dedup_replicated_tensors=False, flatten_state_dict=False),
        )


def save(directory: Path, model: AudioGPT, optimizer: Optimizer | None, world: World) -> None:
    """Write into `directory` (all ranks; rank 0 creates it); optimizer None: weights alone. Raises CheckpointError."""
    if world.rank == 0:
        directory.mkdir(parents=True, exist_ok=True)
    torch.distributed.barrier()
    try:
        dist_checkpointing.save(
            _state(model, optimizer, world, loading=False),
            str(directory),
            _InProcessSave("torch_dist", 1),
            content_metadata=dict(CONTENT),
        )
    except (OSError, CheckpointingException, torch_checkpoint.api.CheckpointException) as error:
        raise CheckpointError(f"cannot write trainer checkpoint {directory}: {error}") from error


def load(directory: Path, model: AudioGPT, optimizer: Optimizer | None, world: World, with_random: bool = True) -> None:
    """Read what `save` wrote in any layout; optimizer None: weights alone. A fresh optimizer keeps its own hyperparameters.

    Raises CheckpointError when it is incomplete or of another model.
    """
    if not (directory / ".metadata").is_file():
        raise CheckpointError(f"{directory} holds no complete trainer checkpoint; resume from an earlier one")
    try:
        saved = dist_checkpointing.load_common_state_dict(str(directory))
        wanted = _state(model, optimizer, world, loading=True)
        same_layout = saved["tensor_parallel"] == world.tensor_size
        if not (same_layout and with_random):
            del wanted["random"]
        loaded = dist_checkpointing.load(wanted, str(directory))
    except (OSError, KeyError, CheckpointingException, torch_checkpoint.api.CheckpointException) as error:
        raise CheckpointError(f"cannot read trainer checkpoint {directory}: {error}") from error
    model.load_state_dict(loaded["model"])
    if optimizer is not None:
        optimizer.load(loaded)
    if not with_random:
        return
    if same_layout:
        _restore_random(loaded["random"])
    else:
        log.info(
            "%s was written with tensor_parallel=%d: random state starts anew", directory, saved["tensor_parallel"]
        )


def _state(model: AudioGPT, optimizer: Optimizer | None, world: World, loading: bool) -> dict[str, Any]:
    sharded = model.sharded_state_dict(metadata=dict(CONTENT))
    trained = {} if optimizer is None else optimizer.state(sharded, dict(CONTENT), loading)
    return trained | {
        "format": FORMAT,
        "tensor_parallel": world.tensor_size,
        "model": sharded,
        "random": ShardedObject(
            "random", _random_state(), (world.tensor_size,), (world.tensor_rank,), replica_id=world.data_rank
        ),
    }


def _random_state() -> dict[str, Any]:
    state = {"cpu": torch.get_rng_state(), "tracker": get_cuda_rng_tracker().get_states()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _restore_random(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    get_cuda_rng_tracker().set_states(state["tracker"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])

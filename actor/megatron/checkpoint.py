"""One model with its optimizer, schedule and random state through Megatron's distributed checkpoint, any layout to any layout.

Neighbours: `actor.trainer` saves actor and critic into folders of their own and loads them; `actor.seal` says when a folder is
complete; the orchestrator names a checkpoint once every rank has written and sealed its share.
Invariants: what is loaded in the same layout continues with equal bits; another layout gets equal parameters and optimizer
state; a folder is sealed after everything in it is on disk, and nothing of an unsealed, torn or changed one reaches a model;
files are written in this process (Megatron's own writer starts helper processes, seconds each on a small box), in the background
by a thread that joins no collective: ranks speak to each other only in `Saving.__init__` and `Saving.finish`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from actor import phases
from actor.layout import Layout
from actor.megatron import lora
from actor.megatron.device import ensure_importable
from actor.megatron.model import AudioGPT
from actor.megatron.optimizer import Optimizer
from actor.megatron.parallel import World
from actor.seal import SEAL, CheckpointError, FileSeal, check, read_seal, seal_of, write_seal

ensure_importable()

from megatron.core import dist_checkpointing  # noqa: E402
from megatron.core.dist_checkpointing.core import CheckpointingException  # noqa: E402
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedStateDict  # noqa: E402
from megatron.core.dist_checkpointing.strategies.state_dict_saver import save_state_dict_async_plan  # noqa: E402
from megatron.core.dist_checkpointing.strategies.torch import (  # noqa: E402
    MCoreSavePlanner,
    TorchDistSaveShardedStrategy,
    _replace_state_dict_keys_with_sharded_keys,
    mcore_to_pyt_state_dict,
)
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker  # noqa: E402
from torch.distributed import checkpoint as torch_checkpoint  # noqa: E402
from torch.distributed.checkpoint.metadata import Metadata  # noqa: E402
from torch.distributed.checkpoint.planner import SavePlan, WriteItem  # noqa: E402
from torch.distributed.checkpoint.storage import WriteResult  # noqa: E402

log = logging.getLogger(__name__)

# Optimizer shards are stored by parameter, so that another data- or tensor-parallel size can read them.
CONTENT = {
    "distrib_optim_sharding_type": "fully_reshardable",
    # Shards are put together in host memory, of one data-parallel rank alone; else each GPU would take them all for a moment.
    "distrib_optim_fully_reshardable_mem_efficient": True,
    "singleton_local_shards": False,
    "chained_optim_avoid_prefix": True,
}
DATA_SUFFIX = ".distcp"
FAILURES = (OSError, CheckpointingException, torch_checkpoint.api.CheckpointException)


@dataclass(frozen=True, slots=True)
class Part:
    """One model of a checkpoint. name: of its folder; optimizer None: weights alone; world: the layout it lives in."""

    name: str
    model: AudioGPT
    optimizer: Optimizer | None
    world: World


@dataclass(frozen=True, slots=True)
class _Share:
    """What one rank has written of a part."""

    results: list[WriteResult]
    files: dict[str, FileSeal]


class HostCopyPlanner(MCoreSavePlanner):
    """Megatron's planner, able to hold a copy of this rank's share in host memory, so that training may go on."""

    def __init__(self) -> None:
        super().__init__(dedup_replicated_tensors=False, flatten_state_dict=False)
        self._copies: dict[Any, Any] = {}

    def copy_to_host(self, plan: SavePlan) -> None:
        self._copies = {item.index: _host_copy(super(HostCopyPlanner, self).resolve_data(item)) for item in plan.items}
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()
        self.state_dict, self.original_state_dict = (
            dict[str, Any](),
            dict[str, Any](),
        )  # no hold on the tensors that are trained on

    def resolve_data(self, write_item: WriteItem) -> Any:
        copied = self._copies.pop(write_item.index, None)
        return super().resolve_data(write_item) if copied is None else copied


class RankWriter(torch_checkpoint.FileSystemWriter):
    """This rank's file of one part: planned with all ranks, written alone."""

    def __init__(self, folder: Path, *, background: bool) -> None:
        super().__init__(str(folder), thread_count=1, sync_files=True, per_thread_copy_ahead=0)
        self.folder = folder
        self._background = background
        self._plan: SavePlan
        self._planner: HostCopyPlanner

    def prepare_write_data(self, plan: SavePlan, planner: HostCopyPlanner) -> None:
        """Called by Megatron's planning once this rank knows its share."""
        self._plan, self._planner = plan, planner
        if self._background:
            planner.copy_to_host(plan)

    def write(self) -> _Share:
        if not self._plan.items:
            return _Share([], {})
        with phases.beside("checkpoint write"):
            return self._write()

    def _write(self) -> _Share:
        results = self.write_data(self._plan, self._planner).wait()
        names = {result.storage_data.relative_path for result in results}
        return _Share(results, seal_of([self.folder / name for name in names], self.folder))


class PlannedSave(TorchDistSaveShardedStrategy):
    """Megatron's file format; `save` plans (all ranks), the writer writes later."""

    def __init__(self, writer: RankWriter, world: World, planner: HostCopyPlanner | None = None) -> None:
        super().__init__("torch_dist", 1)
        self.writer = writer
        self._world = world
        self._planner = planner or HostCopyPlanner()
        self.metadata: Metadata | None = None  # rank 0 alone

    def save(self, sharded_state_dict: ShardedStateDict, checkpoint_dir: str | Path) -> None:
        translated, _, _ = _replace_state_dict_keys_with_sharded_keys(sharded_state_dict, self.keep_only_main_replica)
        state = mcore_to_pyt_state_dict(translated, False)
        planned = save_state_dict_async_plan(state, self.writer, self._world.objects, planner=self._planner)
        self.metadata = planned[0][1]


class Saving:
    """A checkpoint on its way to the disk. Made by all ranks together; `finish` by all ranks again, which seals it.

    texts: further files of the checkpoint, by name; about: for its seals (plain values); whole: seal `directory`, too, not only
    the parts' folders (False where another world writes into it as well); background: this rank's share is copied
    to host memory and written by a thread while training goes on; otherwise everything is written when this returns. Raises
    CheckpointError.
    """

    def __init__(
        self,
        directory: Path,
        parts: Sequence[Part],
        world: World,
        *,
        texts: Mapping[str, str],
        about: Mapping[str, Any],
        whole: bool,
        background: bool,
    ) -> None:
        self.directory = directory
        self._world = world
        self._about = about
        self._whole = whole
        self._parts = list(parts)
        self._planned: list[PlannedSave] = []
        self._shares: list[Future[_Share]] = []
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint") if background else None
        for part in self._parts:
            self._plan(part)
        if world.rank == 0:
            for name, text in texts.items():
                _write_durably(directory / name, text)
        if self._writer is not None:
            self._writer.shutdown(wait=False)

    def _plan(self, part: Part) -> None:
        folder = self.directory / part.name
        if self._world.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
        dist.barrier(group=self._world.objects)
        planned = PlannedSave(RankWriter(folder, background=self._writer is not None), self._world)
        try:
            with part.world.active():
                state = _state(part, loading=False)
                dist_checkpointing.save(state, str(folder), planned, content_metadata=dict(CONTENT))
        except FAILURES as error:
            raise CheckpointError(f"cannot write trainer checkpoint {folder}: {error}") from error
        self._planned.append(planned)
        if self._writer is not None:
            self._shares.append(self._writer.submit(planned.writer.write))
            return
        share: Future[_Share] = Future()
        try:
            share.set_result(planned.writer.write())
        except FAILURES as error:
            share.set_exception(error)
        self._shares.append(share)

    @property
    def written(self) -> bool:
        """Whether this rank's files are on disk, or could not be written; `finish` tells which, and does not wait any more."""
        return all(share.done() for share in self._shares)

    def finish(self) -> None:
        """Wait for all ranks' files, then seal every part and the whole. Raises CheckpointError on every rank when one could not
        write."""
        mine: list[_Share] | str
        try:
            mine = [share.result() for share in self._shares]
        except Exception as error:  # noqa: BLE001 (whatever ended the writer is raised on every rank, below)
            mine = f"rank {self._world.rank} cannot write into {self.directory}: {type(error).__name__}: {error}"
        everyone = _gather(mine, self._world)
        problem = next((share for share in everyone if isinstance(share, str)), "")
        if not problem and self._world.rank == 0:
            try:
                self._seal([[shares[number] for shares in everyone] for number in range(len(self._parts))])  # type: ignore[misc]
            except OSError as error:
                problem = f"cannot seal {self.directory}: {error}"
        problem = next(filter(None, _gather(problem, self._world)), "")
        if problem:
            raise CheckpointError(f"{problem}; the checkpoint is not complete, free some space or mend the disk")

    def _seal(self, shares: Sequence[Sequence[_Share]]) -> None:
        for planned, of_part in zip(self._planned, shares, strict=True):
            folder, data = planned.writer.folder, dict[str, FileSeal]()
            if planned.metadata is not None:  # always, on rank 0
                planned.writer.finish(planned.metadata, [share.results for share in of_part])
            for share in of_part:
                data |= share.files
            write_seal(folder, data | seal_of(others(folder), folder), self._about)
        if not self._whole:
            return
        seals = [planned.writer.folder / SEAL for planned in self._planned]
        write_seal(self.directory, seal_of(others(self.directory) + seals, self.directory), self._about)


def others(folder: Path) -> list[Path]:
    """Files of a folder that no rank's writer answers for."""
    return [path for path in folder.iterdir() if path.is_file() and path.suffix != DATA_SUFFIX and path.name != SEAL]


def _write_durably(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def verify(directory: Path, world: World) -> None:
    """Every sealed file below `directory` is whole (all ranks of `world` call; together they read each file once). Raises
    CheckpointError on every rank, with the name of what is torn, missing or changed."""
    problem = ""
    try:
        check(directory, share=(world.rank, world.size))
    except CheckpointError as error:
        problem = str(error)
    problem = next(filter(None, _gather(problem, world)), "")
    if problem:
        raise CheckpointError(problem)


def load(directory: Path, part: Part, with_random: bool = True) -> None:
    """Read into `part` what `Saving` wrote in any layout; optimizer None: weights alone. A fresh optimizer keeps its own
    hyperparameters. Call `verify` first.

    Raises CheckpointError when it is of another model.
    """
    fresh = _updates_are_fresh(directory, part)
    try:
        saved = Layout(**dist_checkpointing.load_common_state_dict(str(directory))["layout"])
        same_stages = (saved.tensor, saved.pipeline) == (part.world.layout.tensor, part.world.layout.pipeline)
        with part.world.active():
            wanted = _state(part, loading=True)
            if not (same_stages and with_random):
                del wanted["random"]
            if fresh:
                wanted["model"] = {n: value for n, value in wanted["model"].items() if not lora.is_update(n)}
            loaded = dist_checkpointing.load(wanted, str(directory))
    except (*FAILURES, KeyError, TypeError) as error:
        raise CheckpointError(f"cannot read trainer checkpoint {directory}: {error}") from error
    kept = {n: value for n, value in part.model.state_dict().items() if fresh and lora.is_update(n)}
    part.model.load_state_dict(loaded["model"] | kept)
    if part.optimizer is not None:
        part.optimizer.load(loaded)
    if not with_random:
        return
    if same_stages:
        _restore_random(loaded["random"])
    else:
        log.info("%s was written by %s, not by %s: random state starts anew", directory, saved, part.world.layout)


def _updates_are_fresh(directory: Path, part: Part) -> bool:
    """Whether the checkpoint holds whole weights alone, which low-rank updates begin on as they were drawn. Raises CheckpointError
    where the model would be another one than was trained: updates left out, or of another rank or scale."""
    about, mine = read_seal(directory).about, lora.settings_of(part.model)
    if "lora_rank" not in about:
        return False  # not told; what is missing is found below
    stored = lora.Lora(int(about["lora_rank"]), float(about["lora_alpha"])) if about["lora_rank"] else None
    if stored == mine:
        return False
    if stored is None and part.optimizer is None:
        return True
    told = [f"low-rank updates (rank {one.rank}, alpha {one.alpha:g})" if one else "none" for one in (stored, mine)]
    raise CheckpointError(
        f"{directory} holds {told[0].replace('none', 'no low-rank updates')}, this trainer has {told[1]}: set actor.lora.rank and "
        "actor.lora.alpha as they were, or start from the folder that `mgrd export` makes of it"
    )


def _state(part: Part, loading: bool) -> dict[str, Any]:
    world, layout = part.world, part.world.layout
    sharded = part.model.sharded_state_dict(metadata=dict(CONTENT))
    trained = {} if part.optimizer is None else part.optimizer.state(sharded, dict(CONTENT), loading)
    # Ranks of one stage and one tensor shard draw the same numbers in all their copies.
    random = ShardedObject(
        "random",
        _random_state(),
        (layout.pipeline, layout.tensor),
        (world.pipeline_rank, world.tensor_rank),
        replica_id=(world.context_rank, world.data_rank),
    )
    return trained | {"layout": asdict(layout), "model": sharded, "random": random}


def _gather(value: Any, world: World) -> list[Any]:
    """`value` of every rank."""
    if world.size == 1:
        return [value]
    gathered: list[Any] = [None] * world.size
    dist.all_gather_object(gathered, value, group=world.objects)
    return gathered


def _host_copy(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value  # bytes, serialised already
    tensor = value.detach()
    if tensor.is_cuda:
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
    return tensor.clone(memory_format=torch.contiguous_format)


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

"""Between a sharded checkpoint and a Hugging Face folder, one parameter at a time, whatever layout wrote the checkpoint.

Neighbours: `actor.conversion` writes folders and seals with this; `actor.megatron.checkpoint` writes what is read here and reads what
is written here; `actor.megatron.weights` knows names, fusing and splitting.
Invariants: the model exists on the meta device alone, laid out for one rank, where every parameter is whole; of the checkpoint no
more is in memory than the parameter at hand and the stored piece that is read into it; export gives the bits of `Trainer.export`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torch.distributed as dist

from actor.layout import Layout
from actor.megatron import lora, weights
from actor.megatron.checkpoint import CONTENT, FAILURES, HostCopyPlanner, PlannedSave, RankWriter, others
from actor.megatron.device import ensure_importable
from actor.megatron.head import HeadChunks
from actor.megatron.lora import Lora
from actor.megatron.model import AudioGPT, transformer_config
from actor.megatron.parallel import World, close_world, open_world
from actor.megatron.weights import ParameterMapping
from actor.seal import CheckpointError, Seal, seal_of, write_seal
from rollout import FolderWeights, StepAudio2Config

ensure_importable()

from megatron.core import dist_checkpointing, parallel_state  # noqa: E402
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory  # noqa: E402
from torch.distributed.checkpoint import FileSystemReader  # noqa: E402
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner  # noqa: E402
from torch.distributed.checkpoint.metadata import (  # noqa: E402
    ChunkStorageMetadata,
    MetadataIndex,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, WriteItem  # noqa: E402
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list  # noqa: E402

META = torch.device("meta")


@dataclass(frozen=True, slots=True)
class Described:
    """What has to be known of a model to read or write a checkpoint of it. config: of the Hugging Face folder; dtype: of its
    parameters; lora_rank 0: no low-rank updates."""

    config: StepAudio2Config
    dtype: str
    lora_rank: int = 0
    lora_alpha: float = 1.0
    recompute: str = "none"  # read by `transformer_config`; nothing is computed here

    @classmethod
    def of(cls, seal: Seal, config: StepAudio2Config) -> Described:
        """From what the trainer wrote into its seal. Raises CheckpointError when it is not there."""
        try:
            about = seal.about
            return cls(config, str(about["dtype"]), int(about["lora_rank"]), float(about["lora_alpha"]))
        except KeyError as error:
            raise CheckpointError(
                f"the checkpoint's {error} is unknown: its seal was not written by a trainer"
            ) from error


@dataclass(frozen=True, slots=True)
class Place:
    """Where a parameter lies in the checkpoint: in tensor `key`, from `offset` on. prepended: leading axes that it has there and
    not in the model (number of the layer)."""

    key: str
    offset: tuple[int, ...]
    shape: tuple[int, ...]
    prepended: int


@contextmanager
def whole_model(described: Described) -> Iterator[tuple[AudioGPT, World]]:
    """The model without memory, as one rank sees it. Raises RuntimeError in a process that has joined a world already."""
    if dist.is_initialized():
        raise RuntimeError("a checkpoint is converted in a process of its own; this one belongs to a trainer")
    with tempfile.TemporaryDirectory(prefix="mgrd_convert_") as folder:
        world = open_world(Layout(), 0, f"file://{folder}/meeting")
        try:
            with META:
                megatron = transformer_config(described.config, described, Layout())
                low_rank = Lora(described.lora_rank, described.lora_alpha) if described.lora_rank else None
                model = AudioGPT(described.config, megatron, False, HeadChunks(1, 1), low_rank=low_rank)
            yield model.to(META), world
        finally:
            close_world()


def stored_tensors(source: Path, model: AudioGPT) -> Iterator[tuple[str, torch.Tensor]]:
    """What `weights.export_specs` announces out of the checkpoint of an actor in the folder `source`, low-rank updates added. Raises
    CheckpointError when it cannot be read or is of another model."""
    stored, places = Stored(source), places_of(model)
    group = parallel_state.get_tensor_model_parallel_group()
    for mapping in kept_mappings(model):
        with _filled(model, mapping, stored, places):
            tensors = weights.whole_tensors(model, mapping, group)
        while tensors:
            yield mapping.tensors[-len(tensors)], tensors.pop(0)


def write_weights(
    folder: Path, model: AudioGPT, world: World, source: str, *, about: Mapping[str, Any], advance: Callable[[], None]
) -> Seal:
    """The weights of the Hugging Face folder `source` as a sealed checkpoint of an actor, weights alone. about: for its seal; advance:
    called after each tensor. Raises CheckpointError when it cannot be written, WeightsError when the folder holds another model."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {"layout": asdict(world.layout), "model": model.sharded_state_dict(metadata=dict(CONTENT))}
    writer = RankWriter(folder, background=False)
    planned = PlannedSave(writer, world, _FolderPlanner(model, FolderWeights(source), advance))
    try:
        dist_checkpointing.save(state, str(folder), planned, content_metadata=dict(CONTENT))
        share = writer.write()
        if planned.metadata is None:
            raise CheckpointError(f"{folder}: nothing was planned")
        writer.finish(planned.metadata, [share.results])
        return write_seal(folder, share.files | seal_of(others(folder), folder), about)
    except FAILURES as error:
        raise CheckpointError(f"cannot write checkpoint {folder}: {error}") from error


class Stored:
    """Tensors of a sharded checkpoint by region."""

    def __init__(self, source: Path) -> None:
        self._source = source
        self._reader = FileSystemReader(source)
        try:
            self._metadata = self._reader.read_metadata()
        except (OSError, EOFError, ValueError, UnpicklingError) as error:
            raise CheckpointError(f"{source} holds no readable checkpoint: {error}") from error
        self._reader.set_up_storage_reader(self._metadata, True)

    def read(self, place: Place) -> torch.Tensor:
        entry = self._metadata.state_dict_metadata.get(place.key)
        if not isinstance(entry, TensorStorageMetadata):
            raise CheckpointError(
                f"{self._source} has no {place.key}; it is of another model than the folder given with --base"
            )
        sizes = torch.Size((1,) * place.prepended + place.shape)
        if (
            len(entry.size) != len(sizes)
            or any(offset + size > total for offset, size, total in zip(place.offset, sizes, entry.size, strict=True))
            or entry.size[place.prepended :] != sizes[place.prepended :]
        ):
            raise CheckpointError(
                f"{self._source}: {place.key} has shape {tuple(entry.size)}, the model asks for {place.shape}; it is of another "
                "model than the folder given with --base"
            )
        target = torch.empty(sizes, dtype=entry.properties.dtype)
        wanted = ChunkStorageMetadata(torch.Size(place.offset), sizes)
        items = create_read_items_for_chunk_list(place.key, entry, [wanted])
        try:
            self._reader.read_data(LoadPlan(items), _IntoOne(target)).wait()
        except (OSError, EOFError, RuntimeError, UnpicklingError) as error:
            raise CheckpointError(f"{self._source}: {place.key} cannot be read: {error}") from error
        return target.view(place.shape)


class _IntoOne(DefaultLoadPlanner):
    """Everything that is read goes into one tensor."""

    def __init__(self, target: torch.Tensor) -> None:
        super().__init__()
        self._target = target

    def lookup_tensor(self, index: MetadataIndex) -> torch.Tensor:
        return self._target


class _FolderPlanner(HostCopyPlanner):
    """Reads and fuses a parameter when it is about to be written, and forgets it when the next one is."""

    def __init__(self, model: AudioGPT, folder: Mapping[str, torch.Tensor], advance: Callable[[], None]) -> None:
        super().__init__()
        self._model, self._folder, self._advance = model, folder, advance
        self._mappings = {mapping.parameter: mapping for mapping in kept_mappings(model)}
        missing = [name for mapping in self._mappings.values() for name in mapping.tensors if name not in folder]
        if missing:
            raise weights.WeightsError(f"the folder has no {', '.join(missing)}; give a complete Step-Audio 2 folder")
        self._places: dict[str, list[tuple[Place, str]]] = {}
        for parameter, place in places_of(model).items():
            self._places.setdefault(place.key, []).append((place, parameter))
        self._held: tuple[str, torch.Tensor] | None = None

    def resolve_data(self, write_item: WriteItem) -> Any:
        places = self._places.get(write_item.index.fqn)
        if places is None or write_item.tensor_data is None:
            return super().resolve_data(write_item)
        chunk = write_item.tensor_data.chunk
        place, parameter = next(
            found
            for found in places
            if found[0].offset[: found[0].prepended] == tuple(chunk.offsets[: found[0].prepended])
        )
        part = self._whole(parameter)
        ranges = zip(chunk.offsets[place.prepended :], chunk.sizes[place.prepended :], strict=True)
        piece = part[tuple(slice(offset, offset + size) for offset, size in ranges)]
        return piece.reshape(chunk.sizes)

    def _whole(self, parameter: str) -> torch.Tensor:
        if self._held is None or self._held[0] != parameter:
            self._held = None
            mapping, wanted = self._mappings[parameter], self._model.get_parameter(parameter)
            sources = [self._folder[name].to(wanted.dtype) for name in mapping.tensors]
            self._held = parameter, weights.part_of(self._model, mapping, sources, wanted.shape)
            for _ in sources:
                self._advance()
        return self._held[1]


def kept_mappings(model: AudioGPT) -> list[ParameterMapping]:
    return [mapping for mapping in weights.mappings(model) if not mapping.copy]


def places_of(model: AudioGPT) -> dict[str, Place]:
    """Of every parameter, by its name in the model."""
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    found = {}
    for name, entry in model.sharded_state_dict(metadata=dict(CONTENT)).items():
        parts: Sequence[Any] = [entry]
        if isinstance(entry, ShardedTensorFactory):
            built = entry.build()
            parts = built if isinstance(built, list) else list(built.values())
        if name not in shapes or not all(isinstance(part, ShardedTensor) for part in parts):
            continue
        offset = tuple(min(starts) for starts in zip(*(part.global_offset for part in parts), strict=True))
        found[name] = Place(parts[0].key, offset, shapes[name], parts[0].prepend_axis_num)
    return found


@contextmanager
def _filled(model: AudioGPT, mapping: ParameterMapping, stored: Stored, places: Mapping[str, Place]) -> Iterator[None]:
    """`model` with one parameter, and the low-rank update of it, read from the checkpoint; they are gone afterwards."""
    owner, _, kind = mapping.parameter.rpartition(".")
    module = model.get_submodule(owner)
    wanted = (kind, lora.A, lora.B) if kind == "weight" else (kind,)
    empty = {name: one for name, one in module.named_parameters(recurse=False) if name in wanted}
    try:
        for name in empty:
            setattr(module, name, torch.nn.Parameter(stored.read(places[f"{owner}.{name}"]), requires_grad=False))
        yield
    finally:
        for name, parameter in empty.items():
            setattr(module, name, parameter)

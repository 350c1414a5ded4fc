"""New weights into a live engine: a worker extension that vLLM mixes into each of its workers.

Neighbours: `rollout.engine` calls these methods between pause and resume; `rollout.transfer` verifies what comes.
Invariants: a tensor is verified (digest, name, shape) before it is loaded; a set of weights is complete or refused, because vLLM
leaves the rest of a fused layer uninitialised without saying so; nothing is raised while vLLM has its parameters taken apart, and they
are always put together again.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor

from rollout.errors import WeightsRefused, reason
from rollout.messages import LiveWeights
from rollout.model.checkpoint import weight_files
from rollout.transfer import (
    Bucket,
    Channel,
    ChannelError,
    Reception,
    SegmentView,
    Way,
    receive_segment,
    with_companions,
)

if TYPE_CHECKING:
    from vllm.v1.worker.gpu_worker import Worker as _WorkerBase
else:
    _WorkerBase = object

ENCODER = "encoder."
TIED = "lm_head.weight"

# the frozen encoder is never pushed: vLLM warns of each of its layers, then rightly keeps the old tensors
logging.getLogger("vllm.model_executor.model_loader.reload.layerwise").setLevel(logging.ERROR)


class WeightReceiver(_WorkerBase):
    """Methods that vLLM adds to its worker class (`worker_extension_cls`); called by `collective_rpc`.

    Plain types cross the process border: buckets as JSON, a `Receipt` as the tuple of its fields. The caller must have paused the
    engine and must reset prefix and encoder caches afterwards.
    """

    def receive_weights_shared(self, journal: str, number: int, limit_s: float, only_changed: bool) -> tuple[Any, ...]:
        """All of a publish from shared memory, while it is written; a `Receipt`'s fields."""
        intake = self._weight_intake
        intake.begin(only_changed)
        intake.attempt(lambda: receive_segment(intake.reception, intake.view, Path(journal), number, limit_s))
        intake.view.forget_removed()
        return intake.end()

    def receive_weights_live(self, update: dict[str, Any], first_rank: int) -> tuple[Any, ...]:
        """All of a publish from the trainer's devices, together with all other engines' workers. update: fields of `LiveWeights`;
        first_rank: of this engine's worker 0. A `Receipt`'s fields."""
        intake = self._weight_intake
        intake.begin(only_changed=False)
        intake.receive_live(LiveWeights(**update), first_rank + self.rank)
        return intake.end()

    def begin_weights(self, buckets: Sequence[str], checksum: str, only_changed: bool) -> list[int]:
        """Which of these buckets should come; the others are held already. None where the whole is refused."""
        intake = self._weight_intake
        intake.begin(only_changed)
        intake.announced = [Bucket.from_dict(json.loads(bucket)) for bucket in buckets]
        intake.attempt(lambda: intake.reception.announce(intake.announced, checksum))
        return intake.wanted()

    def take_weights(self, number: int, data: bytes) -> None:
        """Bytes of bucket `number` of those announced."""
        intake = self._weight_intake
        bytes_N = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        intake.attempt(lambda: intake.reception.take(intake.announced[number], bytes_N))

    def end_weights(self, checksum: str, failure: str) -> tuple[Any, ...]:
        """After the last bucket; failure: why no more came, "" when all did. A `Receipt`'s fields."""
        intake = self._weight_intake
        if failure:
            intake.refuse(failure)
        intake.attempt(lambda: intake.reception.finish(checksum))
        return intake.end()

    @cached_property
    def _weight_intake(self) -> _Intake:
        return _Intake(self)


class _Intake:
    """What one worker's receiving keeps: mapped memory, digests of what is loaded, and the update that is coming in."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self.view = SegmentView()
        self.announced: list[Bucket] = []
        self._channel: tuple[str, Channel] | None = None  # by address
        self._held: dict[str, str] = {}  # digest by name of what is loaded
        text = worker.model_config.hf_config.text_config
        self._tied = bool(text.tie_word_embeddings)
        self._expected = self._shapes()

    def begin(self, only_changed: bool) -> None:
        held = self._held if only_changed else None
        optional = [TIED] if self._tied else []
        self.reception = Reception(self._expected, self._load, held=held, optional=optional)
        self._refusal, self._apart = "", False

    def attempt(self, step: Any) -> None:
        """Runs a step of the reception unless an earlier one failed, and keeps the reason when it does."""
        if self._refusal:
            return
        try:
            step()
        except WeightsRefused as refusal:
            self.refuse(str(refusal))
        except (ValueError, RuntimeError, AssertionError, KeyError, TypeError, OSError) as error:  # vLLM's loaders
            self.refuse(f"loading failed: {reason(error)}")

    def receive_live(self, update: LiveWeights, rank: int) -> None:
        """Takes part to the end, also when what comes is refused: the others wait for it."""
        try:
            if self._channel is None or self._channel[0] != update.address:
                device = torch.device(self._worker.device)
                channel = Channel.join(update.address, rank, update.size, device, update.limit_s)
                self._channel = (update.address, channel)
            for came in self._channel[1].incoming(update.number, Way(update.way)):
                if isinstance(came, str):
                    self.attempt(lambda checksum=came: self.reception.finish(checksum))
                else:
                    self.attempt(lambda bucket=came: self.reception.take(*bucket))
        except ChannelError as error:
            self._channel = None
            self.refuse(str(error))

    def refuse(self, why: str) -> None:
        self._refusal = self._refusal or why

    def wanted(self) -> list[int]:
        """Of the buckets announced, those with a tensor that is not held or that shares a layer with one."""
        if self._refusal:
            return []
        buckets = self.announced
        entries = [entry for bucket in buckets for entry in bucket.tensors]
        changed = [entry.name for entry in entries if not self.reception.holds(entry)]
        needed = with_companions(changed, {entry.name for entry in entries})
        return [n for n, bucket in enumerate(buckets) if any(entry.name in needed for entry in bucket.tensors)]

    def end(self) -> tuple[Any, ...]:
        """Puts vLLM's parameters together, in whatever state; a `Receipt`'s fields."""
        from vllm.config import set_current_vllm_config
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        receipt = self.reception.receipt(self._refusal)
        if receipt.touched:
            runner = self._worker.model_runner
            model = runner.get_model()
            with set_current_vllm_config(self._worker.vllm_config):
                finalize_layerwise_reload(model, self._worker.model_config)
                if self._tied:
                    repack_head(model)
            runner.reset_encoder_cache()
            runner.reset_mm_cache()
        if receipt.touched or not receipt.refusal:
            self._held = {} if receipt.refusal else self.reception.digests
        self.announced = []
        del self.reception  # and with it the bytes that it kept
        return dataclasses.astuple(receipt)

    def _load(self, tensors: Sequence[tuple[str, Tensor]]) -> None:
        from vllm.config import set_current_vllm_config
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        model = self._worker.model_runner.get_model()
        with set_current_vllm_config(self._worker.vllm_config):
            if not self._apart:
                self._apart = True
                initialize_layerwise_reload(model)
            model.load_weights(iter(tensors))

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Checkpoint names and shapes of everything an update must hold, from the folder the engine was started on."""
        shapes: dict[str, tuple[int, ...]] = {}
        for path in weight_files(self._worker.model_config.model):
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118 (not a mapping)
                    if not name.startswith(ENCODER):
                        shapes[name] = tuple(file.get_slice(name).get_shape())
        if self._tied:
            shapes.pop(TIED, None)
        return shapes


def repack_head(model: Any) -> None:
    """Makes a tied head follow its embedding.

    vLLM's CPU head multiplies by a packed copy of the weight. A reload refills the embedding in place, so the head's
    weight is right, but its packed copy is the old one: nothing was loaded under the head's own name.
    """
    head = model.language_model.lm_head
    head.quant_method.process_weights_after_loading(head)

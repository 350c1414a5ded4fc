"""New weights into a live engine: a worker extension that vLLM mixes into each of its workers.

Neighbours: `rollout.engine` calls `push_weights` between pause and resume; `weights_checksum` is the trainer's own.
Invariants: a payload is verified (checksum, names, shapes) before one weight is touched; a set of weights is complete
or refused, because vLLM leaves the rest of a fused layer uninitialised without saying so.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load
from torch import Tensor

from rollout.model.checkpoint import weight_files
from rollout.model.checksum import weights_checksum

if TYPE_CHECKING:
    from vllm.v1.worker.gpu_worker import Worker as _WorkerBase
else:
    _WorkerBase = object

ENCODER = "encoder."
TIED = "lm_head.weight"

# the frozen encoder is never pushed: vLLM warns of each of its layers, then rightly keeps the old tensors
logging.getLogger("vllm.model_executor.model_loader.reload.layerwise").setLevel(logging.ERROR)


@dataclass(frozen=True, slots=True)
class PushResult:
    """checksum: of the tensors received; refusal: why nothing was loaded, "" when it was; seconds: in the worker."""

    checksum: str
    refusal: str
    seconds: float


class WeightReceiver(_WorkerBase):
    """Methods that vLLM adds to its worker class (`worker_extension_cls`); called by `collective_rpc`."""

    def push_weights(self, payload: bytes, checksum: str) -> tuple[str, str, float]:
        """Loads safetensors bytes under checkpoint names, the encoder left out.

        Returns the fields of a `PushResult` (plain types cross the process border). A refused payload leaves the old
        weights untouched. The caller must have paused the engine and must reset prefix and encoder caches afterwards.
        """
        began = time.perf_counter()
        try:
            tensors = load(bytes(payload))
        except SafetensorError as error:
            return "", f"payload of {len(payload)} bytes is no safetensors: {error}", time.perf_counter() - began
        found = weights_checksum(tensors)
        refusal = "" if found == checksum else f"checksum of the payload is {found}, announced was {checksum}"
        refusal = refusal or mismatch(self._expected_shapes, {name: tuple(t.shape) for name, t in tensors.items()})
        if not refusal:
            self.reload_weights(weights_iterator=iter(self._loadable(tensors).items()))
            if self._tied:
                repack_head(self.model_runner.get_model())
        return found, refusal, time.perf_counter() - began

    @cached_property
    def _expected_shapes(self) -> dict[str, tuple[int, ...]]:
        """Checkpoint names and shapes of everything a push must hold, from the folder the engine was started on."""
        shapes: dict[str, tuple[int, ...]] = {}
        for path in weight_files(self.model_config.model):
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118 (not a mapping)
                    if not name.startswith(ENCODER):
                        shapes[name] = tuple(file.get_slice(name).get_shape())
        if self._tied:
            shapes.pop(TIED, None)
        return shapes

    @property
    def _tied(self) -> bool:
        return bool(self.model_config.hf_config.text_config.tie_word_embeddings)

    def _loadable(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: t for name, t in tensors.items() if not (self._tied and name == TIED)}


def repack_head(model: Any) -> None:
    """Makes a tied head follow its embedding.

    vLLM's CPU head multiplies by a packed copy of the weight. A reload refills the embedding in place, so the head's
    weight is right, but its packed copy is the old one: nothing was loaded under the head's own name.
    """
    head = model.language_model.lm_head
    head.quant_method.process_weights_after_loading(head)


def mismatch(expected: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]]) -> str:
    """Why a set of weights cannot be loaded, or "". The head of a tied model may be in it or not."""
    missing = sorted(expected.keys() - given.keys())
    unknown = sorted(given.keys() - expected.keys() - {TIED})
    wrong = sorted(name for name in expected.keys() & given.keys() if tuple(expected[name]) != tuple(given[name]))
    parts = [
        f"{len(names)} {kind}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        for kind, names in (("missing", missing), ("unknown", unknown), ("of another shape", wrong))
        if names
    ]
    return "" if not parts else f"weights do not fit the engine's model; {'; '.join(parts)}"


def as_results(answers: list[Any]) -> list[PushResult]:
    """What `collective_rpc("push_weights")` returned, one a worker, as typed results."""
    return [PushResult(*answer) for answer in answers]

"""The model as vLLM runs it: encoder (if wanted) and adaptor in plain torch, decoder by vLLM's own Qwen2.

Neighbours: `processor` delivers the tensors, `weights` replaces the weights of a live engine.
Invariants: checkpoint names go in unchanged (`encoder.* adapter.* model.* lm_head.*`), so the trainer's names are the
names to push; each clip passes encoder and adaptor alone, so a result cannot depend on the batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.model_executor.models.interfaces import SupportsMultiModal, SupportsPP
from vllm.model_executor.models.utils import AutoWeightsLoader, WeightsMapper, init_vllm_registered_model, maybe_prefix
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.sequence import IntermediateTensors

from rollout.model.adaptor import Adaptor
from rollout.model.encoder import AudioEncoder
from rollout.model.tokenizer import AUDIO_PATCH
from rollout.model.vllm_plugin.processor import FEATURES, StepAudioDummyInputs, StepAudioInfo, StepAudioProcessor


@MULTIMODAL_REGISTRY.register_processor(StepAudioProcessor, info=StepAudioInfo, dummy_inputs=StepAudioDummyInputs)
class StepAudio2ForCausalLM(nn.Module, SupportsMultiModal, SupportsPP):
    """`config.with_encoder=False` leaves the encoder out; only precomputed features are then accepted."""

    hf_to_vllm_mapper = WeightsMapper(
        orig_to_new_prefix={"model.": "language_model.model.", "lm_head.": "language_model.lm_head."}
    )

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str:
        if modality != "audio":
            raise ValueError(f"this model takes audio, not {modality!r}")
        return AUDIO_PATCH

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config
        self.config = config
        with self._mark_tower_model(vllm_config, "audio"):
            self.encoder = AudioEncoder(config.audio_encoder_config) if config.with_encoder else None
            self.adapter = Adaptor(config.audio_encoder_config)
        with self._mark_language_model(vllm_config):
            self.language_model: Any = init_vllm_registered_model(
                vllm_config=vllm_config,
                hf_config=config.text_config,
                prefix=maybe_prefix(prefix, "language_model"),
                architectures=["Qwen2ForCausalLM"],
            )
        self.make_empty_intermediate_tensors: Any = self.language_model.make_empty_intermediate_tensors

    def embed_multimodal(self, **inputs: Any) -> list[Tensor]:
        """Decoder embeddings [patches, hidden] of each item of `audio_data`, in order.

        `audio_kind` [items] tells log-mel [M, n_mels] from features [T25, feature_dim].
        """
        audio_data, audio_kind = inputs.get("audio_data"), inputs.get("audio_kind")
        if audio_data is None:
            return []
        like = self.adapter.linear1.weight
        embeddings = []
        for data, kind in zip(audio_data, torch.as_tensor(audio_kind).flatten().tolist(), strict=True):
            x = data.to(device=like.device, dtype=like.dtype)
            if kind != FEATURES:
                if self.encoder is None:
                    raise RuntimeError("a log-mel reached an engine without encoder; the parser should have refused it")
                x = self.encoder(x)
            embeddings.append(self.adapter(x))
        return embeddings

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None,
        **_: Any,
    ) -> Tensor | IntermediateTensors:
        if intermediate_tensors is not None:
            inputs_embeds = None
        return self.language_model.model(input_ids, positions, intermediate_tensors, inputs_embeds=inputs_embeds)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        return self.language_model.compute_logits(hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        skipped = [] if self.encoder is not None else ["encoder."]
        return AutoWeightsLoader(self, skip_prefixes=skipped).load_weights(weights, mapper=self.hf_to_vllm_mapper)

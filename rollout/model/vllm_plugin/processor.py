"""vLLM's processor for Step-Audio 2: audio items to tensors, one `<audio_patch>` to its whole placeholder run.

Neighbours: `items` has checked the audio, `model` gets the tensors; `rollout.prompts` expands placeholders by the same
length rule for the trainer.
Invariants: a prompt given to vLLM has ONE `<audio_patch>` an item and no start or end token; the engine reports the
expanded ids. Features keep the dtype they were sent in, the model casts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
    PromptUpdateDetails,
)

from rollout.model.config import StepAudio2Config, StepAudio2EncoderConfig
from rollout.model.encoder import log_mel
from rollout.model.lengths import lengths_from_mel, patch_count
from rollout.model.tokenizer import AUDIO_PATCH, special_ids
from rollout.model.vllm_plugin.items import AudioItems, AudioParser, longest_waveform, max_feature_frames

MEL, FEATURES = 0, 1  # `audio_kind`: what `audio_data` of an item holds
START_AND_END = 2  # tokens around the patches of an item


class StepAudioInfo(BaseProcessingInfo):
    """Facts about the model that vLLM asks for before it has the model."""

    def get_hf_config(self) -> StepAudio2Config:
        return self.ctx.get_hf_config(StepAudio2Config)

    @property
    def audio_config(self) -> StepAudio2EncoderConfig:
        return self.get_hf_config().audio_encoder_config

    def get_data_parser(self) -> AudioParser:
        return AudioParser(self.audio_config, with_encoder=self.get_hf_config().with_encoder)

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        return {"audio": None}

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        frames = max_feature_frames(self.audio_config)
        return {"audio": patch_count(frames, self.audio_config) + START_AND_END}


class StepAudioDummyInputs(BaseDummyInputsBuilder[StepAudioInfo]):
    """The largest request, for vLLM's memory profiling."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        return AUDIO_PATCH * mm_counts.get("audio", 0)

    def get_dummy_mm_data(
        self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Mapping[str, Any]
    ) -> dict[str, Any]:
        config = self.info.audio_config
        item: np.ndarray | Tensor
        if self.info.get_hf_config().with_encoder:
            item = longest_waveform(config)
        else:
            item = torch.zeros(max_feature_frames(config), config.feature_dim)
        return {"audio": [item] * mm_counts.get("audio", 0)}


class StepAudioProcessor(BaseMultiModalProcessor[StepAudioInfo]):
    """Stands in for a Hugging Face processor: there is none for this architecture."""

    def _call_hf_processor(
        self, prompt: str, mm_data: Mapping[str, Any], mm_kwargs: Mapping[str, Any], tok_kwargs: Mapping[str, Any]
    ) -> BatchFeature:
        ids = self.info.get_tokenizer().encode(prompt, add_special_tokens=False)
        return BatchFeature({"input_ids": [ids], **self._audio_inputs(mm_data.get("audios", []))})

    def _apply_hf_processor_mm_only(self, mm_items: Any, *args: Any, **kwargs: Any) -> BatchFeature:
        items = mm_items["audio"] if "audio" in mm_items else AudioItems([])
        return BatchFeature(self._audio_inputs(items.get_all()))

    def _hf_processor_applies_updates(self, *args: Any, **kwargs: Any) -> bool:
        return False

    def _audio_inputs(self, items: Sequence[Tensor]) -> dict[str, Any]:
        if not items:
            return {}
        n_mels, dtype = self.info.audio_config.n_mels, self.info.ctx.model_config.dtype
        return {
            "audio_data": [item if item.ndim == 2 else log_mel(item, n_mels).to(dtype) for item in items],
            "audio_kind": torch.tensor([FEATURES if item.ndim == 2 else MEL for item in items]),
        }

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, Any]
    ) -> Mapping[str, MultiModalFieldConfig]:
        return {name: MultiModalFieldConfig.batched("audio") for name in ("audio_data", "audio_kind")}

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any
    ) -> Sequence[PromptReplacement]:
        config, special = self.info.audio_config, special_ids(self.info.get_tokenizer())

        def placeholder_run(index: int) -> PromptUpdateDetails:
            item = out_mm_kwargs["audio"][index].get_data()
            frames = item["audio_data"].shape[0]
            if int(item["audio_kind"]) == MEL:
                frames = lengths_from_mel(frames, config).features
            patches = [special.audio_patch] * patch_count(frames, config)
            return PromptUpdateDetails.select_token_id(
                [special.audio_start, *patches, special.audio_end], embed_token_id=special.audio_patch
            )

        return [PromptReplacement(modality="audio", target=[special.audio_patch], replacement=placeholder_run)]

"""Audio items of a request: what a caller may send, checked before it reaches the model.

Neighbours: `processor` parses requests with this; the length rules come from `rollout.model.lengths`.
Invariants: an item that passes cannot fail in the model, so a bad request fails alone; waveforms and features go the
same way, as processor items, so that vLLM's processor cache and its ids by uuid work for both (embedding items would
bypass the cache and need the decoder's width).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm.multimodal.parse import MultiModalDataParser, ProcessorBatchItems

from rollout.model.config import StepAudio2EncoderConfig
from rollout.model.lengths import HOP, SAMPLE_RATE, lengths_from_mel, lengths_from_samples, max_samples

MIN_SAMPLES = 8 * HOP  # 80 ms: below it some length rule leaves no feature


class AudioItems(ProcessorBatchItems[Any]):
    """The parsed items of one prompt: [L] waveform, [T25, feature_dim] features, or None for one known by its uuid."""

    def __init__(self, data: list[Tensor | None]) -> None:
        super().__init__(data, "audio")


class AudioParser(MultiModalDataParser):
    """Parses `multi_modal_data={"audio": item or [items]}`; raises ValueError with what was wrong.

    Items: (waveform, sample rate), waveform [L] at 16 kHz, features [T25, feature_dim] (any float dtype), or None
    beside a uuid that the engine has seen.
    """

    def __init__(self, config: StepAudio2EncoderConfig, *, with_encoder: bool) -> None:
        super().__init__(target_sr=SAMPLE_RATE, target_channels=1)
        self._config = config
        self._with_encoder = with_encoder
        self._max_frames = max_feature_frames(config)

    def _parse_audio_data(self, data: Any) -> AudioItems | None:
        if data is None:
            return None
        return AudioItems([self._item(item) for item in (data if isinstance(data, list) else [data])])

    def _item(self, item: Any) -> Tensor | None:
        if item is None:
            return None
        if isinstance(item, tuple):
            item = self._resampled(*item)
        # arrays that come out of shared memory are read-only; torch wants to be able to write
        tensor = item if isinstance(item, Tensor) else torch.from_numpy(np.require(item, requirements=["C", "W"]))
        return self._features(tensor) if tensor.ndim == 2 else self._waveform(tensor)

    def _resampled(self, waveform: Any, sample_rate: float | None) -> Any:
        if sample_rate is None or sample_rate == SAMPLE_RATE:
            return waveform
        return self.audio_resampler.resample(np.asarray(waveform), orig_sr=sample_rate)

    def _features(self, features: Tensor) -> Tensor:
        frames, width = features.shape
        if width != self._config.feature_dim or not 1 <= frames <= self._max_frames or not features.is_floating_point():
            raise ValueError(
                f"audio features must be floats [1..{self._max_frames}, {self._config.feature_dim}], "
                f"got {tuple(features.shape)} {features.dtype}; encode the clip with this model's encoder"
            )
        return features

    def _waveform(self, waveform: Tensor) -> Tensor:
        if not self._with_encoder:
            raise ValueError("this engine holds no audio encoder; send precomputed features [T25, feature_dim]")
        longest = max_samples(self._config)
        if waveform.ndim != 1 or not MIN_SAMPLES <= waveform.shape[0] <= longest:
            raise ValueError(
                f"a waveform must have one dimension and {MIN_SAMPLES / SAMPLE_RATE:.2f}..{longest / SAMPLE_RATE:.2f} s "
                f"at {SAMPLE_RATE} Hz, got {tuple(waveform.shape)}; cut longer audio into several items"
            )
        return waveform.float()


def max_feature_frames(config: StepAudio2EncoderConfig) -> int:
    """Most frames [T25] one item can have: those of `n_audio_ctx` encoder positions."""
    return lengths_from_mel(2 * config.n_audio_ctx + config.mel_trim, config).features


def longest_waveform(config: StepAudio2EncoderConfig) -> np.ndarray:
    """Silence as long as one item may be; for vLLM's memory profiling."""
    samples = max_samples(config)
    if lengths_from_samples(samples, config).features < 1:
        raise ValueError(f"n_audio_ctx {config.n_audio_ctx} leaves no room for audio; check the model's config.json")
    return np.zeros(samples, np.float32)

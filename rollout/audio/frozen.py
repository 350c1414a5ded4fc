"""The frozen encoder as a function from waveforms to features, with a fingerprint of everything they depend on.

Neighbours: `features.FeatureCache` keys its files by the fingerprint; the base build and data tools call it directly.
Invariants: one clip at a time, float32; equal fingerprints mean equal features.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rollout.model.checkpoint import load_weights
from rollout.model.checksum import weights_checksum
from rollout.model.config import StepAudio2EncoderConfig, load_config
from rollout.model.encoder import AudioEncoder, log_mel

FRONT_END = "1"  # raise when decoding, chunking or the log-mel change what comes out
CONFIG_FIELDS = (
    "n_mels",
    "n_audio_ctx",
    "n_audio_state",
    "n_audio_head",
    "n_audio_layer",
    "feature_layers",
    "feature_standardize",
    "mel_trim",
)


class FrozenEncoder:
    """Encoder weights that never change. `weights`: checkpoint names `encoder.*`; other names are ignored."""

    def __init__(
        self, config: StepAudio2EncoderConfig, weights: Mapping[str, Tensor], device: str | torch.device = "cpu"
    ) -> None:
        own = {name.removeprefix("encoder."): w.float() for name, w in weights.items() if name.startswith("encoder.")}
        fields = json.dumps({name: getattr(config, name) for name in CONFIG_FIELDS}, sort_keys=True)
        self.config = config
        self.fingerprint = f"{FRONT_END}:{weights_checksum(own)}:{fields}"
        with torch.device("meta"):
            self._encoder = AudioEncoder(config)
        self._encoder.load_state_dict(own, assign=True)
        self._encoder.eval().requires_grad_(False).to(device)
        self._device = device

    @classmethod
    def from_pretrained(cls, model_dir: str | Path, device: str | torch.device = "cpu") -> FrozenEncoder:
        """Of a model folder. Raises CheckpointError or RuntimeError when the folder's encoder weights do not fit."""
        return cls(load_config(model_dir).audio_encoder_config, load_weights(model_dir, "encoder."), device)

    @torch.no_grad()
    def encode(self, wave: np.ndarray) -> Tensor:
        """One chunk [L] at 16 kHz -> features [T25, feature_dim] float32 on the CPU."""
        mel = log_mel(wave, self.config.n_mels).to(self._device)
        return self._encoder(mel).cpu()

    def encode_many(self, waves: Sequence[np.ndarray]) -> list[Tensor]:
        """Chunks one after the other, each at its own length; the result of one does not depend on the others."""
        return [self.encode(wave) for wave in waves]

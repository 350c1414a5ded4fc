"""How long audio becomes: samples -> mel frames -> 50 Hz positions -> 25 Hz features -> 12.5 Hz patches.

Neighbours: the encoder, the vLLM processor, prompts and the trainer all count with these functions.
Invariants: this is the only place with length formulas; a unit test holds them to the tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # it brings transformers and torch, which a process that only decodes clips does not need
    from rollout.model.config import StepAudio2EncoderConfig

SAMPLE_RATE = 16000
N_FFT = 400
HOP = 160
TAIL = 479  # zero samples appended before the STFT, as the released clients do
POOL = 2


@dataclass(frozen=True, slots=True)
class AudioLengths:
    """mel: frames of the log-mel (100 Hz); positions: encoder positions that count (50 Hz); features: after pooling
    (25 Hz); patches: adaptor output, the `<audio_patch>` tokens of the chunk (12.5 Hz)."""

    mel: int
    positions: int
    features: int
    patches: int


def patch_count(features: int, config: StepAudio2EncoderConfig) -> int:
    """Adaptor outputs for `features` frames at 25 Hz (convolution with padding 1)."""
    return (features + 2 - config.kernel_size) // config.adapter_stride + 1


def lengths_from_mel(mel: int, config: StepAudio2EncoderConfig) -> AudioLengths:
    """Every later length of a log-mel of `mel` frames; `mel_trim` frames do not count (the released rule: 2)."""
    positions = max(0, mel - config.mel_trim + 1) // 2
    features = positions // POOL
    return AudioLengths(mel, positions, features, patch_count(features, config) if features else 0)


def lengths_from_samples(samples: int, config: StepAudio2EncoderConfig) -> AudioLengths:
    """Every later length of a waveform of `samples` at 16 kHz."""
    return lengths_from_mel((samples + TAIL) // HOP, config)


def max_samples(config: StepAudio2EncoderConfig) -> int:
    """Longest waveform of one chunk: 479,680 samples (29.98 s) for 1500 positions."""
    return (2 * config.n_audio_ctx + 1) * HOP - TAIL - 1

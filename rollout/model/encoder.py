"""Audio front end in plain torch: log-mel and the frozen Whisper-like encoder down to 25 Hz.

Neighbours: `rollout.audio.features` computes and caches its output, `adaptor` takes it to 12.5 Hz; the vLLM plugin and
the reference model hold the same modules.
Invariants: one clip at a time at its own length, never padded, so a result cannot depend on the batch; parameter names
are those of the public checkpoints under `encoder.`.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank

from rollout.model.config import LAST_LAYER, StepAudio2EncoderConfig
from rollout.model.lengths import HOP, N_FFT, POOL, SAMPLE_RATE, TAIL, lengths_from_mel

MEL_FLOOR = 1e-10
MEL_RANGE = 8.0  # log10 units kept below the clip's loudest bin


@lru_cache
def _mel_bank(n_mels: int) -> Tensor:
    """[n_mels, N_FFT // 2 + 1], Slaney scale and norm."""
    bank = mel_filter_bank(N_FFT // 2 + 1, n_mels, 0.0, SAMPLE_RATE / 2, SAMPLE_RATE, norm="slaney", mel_scale="slaney")
    return torch.from_numpy(bank).float().T.contiguous()


@lru_cache
def _window() -> Tensor:
    return torch.hann_window(N_FFT)


def log_mel(wave: np.ndarray | Tensor, n_mels: int) -> Tensor:
    """Log-mel of a mono waveform [L] at 16 kHz: [(L + 479) // 160, n_mels] float32, scaled as Whisper's."""
    samples = F.pad(torch.as_tensor(wave, dtype=torch.float32), (0, TAIL))
    spectrum = torch.stft(samples, N_FFT, HOP, window=_window(), return_complex=True)[:, :-1]
    mel = (_mel_bank(n_mels) @ spectrum.abs().square()).clamp_min(MEL_FLOOR).log10()
    mel = torch.maximum(mel, mel.max() - MEL_RANGE)
    return ((mel + 4.0) / 4.0).T.contiguous()


class Attention(nn.Module):
    """Full self-attention over one clip [1, T, d]; the key projection has no bias, as in Whisper."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (self._split(layer(x)) for layer in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(-2, -3).flatten(-2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(-2, -3)


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.attn_ln = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.mlp_ln = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.attn_ln(x))
        return x + self.mlp(self.mlp_ln(x))


class AudioEncoder(nn.Module):
    """log-mel [M, n_mels] of one clip -> features [T25, feature_dim].

    All mel frames pass the convolutions; positions beyond `lengths_from_mel(M).positions` are then dropped, which is
    what a key mask does to the ones that stay.
    """

    def __init__(self, config: StepAudio2EncoderConfig) -> None:
        super().__init__()
        width = config.n_audio_state
        self.config = config
        self.conv1 = nn.Conv1d(config.n_mels, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.positional_embedding = nn.Embedding(config.n_audio_ctx, width)
        self.blocks = nn.ModuleList(Block(width, config.n_audio_head) for _ in range(config.n_audio_layer))
        self.after_norm = nn.LayerNorm(width)
        if config.feature_standardize:
            # parameters, not buffers: weight loaders that only know parameters then find them
            self.feature_mean = nn.Parameter(torch.zeros(config.feature_dim), requires_grad=False)
            self.feature_scale = nn.Parameter(torch.ones(config.feature_dim), requires_grad=False)

    def forward(self, mel: Tensor) -> Tensor:
        """Raises ValueError when the clip is too short for one feature or longer than `n_audio_ctx` positions."""
        lengths = lengths_from_mel(mel.shape[0], self.config)
        if lengths.features < 1 or lengths.positions > self.config.n_audio_ctx:
            raise ValueError(
                f"a clip of {mel.shape[0]} mel frames ({mel.shape[0] / 100:.2f} s) makes {lengths.positions} encoder "
                f"positions; allowed are {POOL}..{self.config.n_audio_ctx}: cut or lengthen it"
            )
        x = mel.to(self.conv1.weight).T[None]
        x = F.gelu(self.conv2(F.gelu(self.conv1(x)))).transpose(1, 2)[:, : lengths.positions]
        x = x + self.positional_embedding.weight[: lengths.positions]
        wanted = self.config.feature_layers
        kept: dict[int, Tensor] = {}
        depth = len(self.blocks) if LAST_LAYER in wanted else max(wanted)
        for number, block in enumerate(self.blocks[:depth], start=1):
            x = block(x)
            if number in wanted:
                kept[number] = _pool(x)
        if LAST_LAYER in wanted:
            kept[LAST_LAYER] = self.after_norm(_pool(x))
        features = torch.cat([kept[layer] for layer in wanted], dim=-1)[0]
        if self.config.feature_standardize:
            features = (features - self.feature_mean) * self.feature_scale
        return features


def _pool(x: Tensor) -> Tensor:
    """[1, T50, d] -> [1, T50 // 2, d]: means of neighbours, an odd last position is dropped."""
    return F.avg_pool1d(x.transpose(1, 2), POOL).transpose(1, 2)

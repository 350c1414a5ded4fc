"""The tiny model as the base build trains it: configuration, stand-in audio, one forward pass over tree batches.

Neighbours: `rollout.model.reference` is the model itself; `stages` drive it; `frames` gives labels, `trees` the rows.
Invariants: parameters carry checkpoint names from the start; stand-in audio lives in the decoder's embedding space, so
that the adaptor can later be taught to produce the same vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Qwen2Config

from orchestrator.base_model.frames import ONSET, LabelSpace
from orchestrator.base_model.trees import IGNORED, TreeBatch
from rollout import special_ids
from rollout.model.config import StepAudio2Config, StepAudio2EncoderConfig
from rollout.model.reference import StepAudio2ForCausalLM

HIDDEN, LAYERS, FEED_FORWARD = 128, 5, 384
HEADS, KV_HEADS = 4, 2  # head size 32, the least that vLLM's CPU attention takes
ADAPTER_WIDTH = 256
INIT_STD = 0.06  # at transformers' 0.02 a decoder this narrow stays at the unigram loss for hundreds of steps
PITCH_FACTOR, LEVEL_FACTOR, PHASE_FACTOR = 1, 2, 3
DOUBTFUL_EVENTS, MOST_DOUBT = 0.0, 0.62  # share of events; at 0.66 the true kind would only equal its two decoys


def tiny_config(tokenizer: Any) -> StepAudio2Config:
    """Whisper tiny.en encoder (layers 1 and last, standardised), adaptor 768-256-256-128, decoder of about 1.1 M."""
    text = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=FEED_FORWARD,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        initializer_range=INIT_STD,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    audio = StepAudio2EncoderConfig(
        n_mels=80,
        n_audio_ctx=1500,
        n_audio_state=384,
        n_audio_head=6,
        n_audio_layer=4,
        llm_dim=HIDDEN,
        adapter_state=ADAPTER_WIDTH,
        feature_layers=(1, -1),
        feature_standardize=True,
        adapter_channels=ADAPTER_WIDTH,
    )
    return StepAudio2Config(
        text_config=text,
        audio_encoder_config=audio,
        architectures=["StepAudio2ForCausalLM"],
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )


def new_model(config: StepAudio2Config, tokenizer: Any) -> StepAudio2ForCausalLM:
    """The model with random weights and without the encoder, whose features come precomputed."""
    config.with_encoder = False
    model = StepAudio2ForCausalLM(config, special_ids(tokenizer).audio_patch)
    config.with_encoder = True
    return model


class PseudoAudio(nn.Module):
    """Stand-in for the audio of a clip: the sum of one learned vector a label factor."""

    def __init__(self, space: LabelSpace, width: int) -> None:
        super().__init__()
        self.space = space
        self.tables = nn.ModuleList(nn.Embedding(size, width) for size in space.sizes)
        for weight in self.weights:
            nn.init.normal_(weight, std=INIT_STD)

    @property
    def weights(self) -> list[Tensor]:
        """The vectors of each factor [labels, width]."""
        return list(self.tables.parameters())

    def forward(self, labels_NF: Tensor) -> Tensor:
        """Labels [N, 5] -> [N, width]."""
        return torch.stack([table(labels_NF[:, i]) for i, table in enumerate(self.tables)]).sum(0)

    def heard(self, labels: Sequence[npt.NDArray[np.int64]], noise: float, rng: np.random.Generator) -> Tensor:
        """Labels of several clips, misheard here and there, as noisy vectors [sum of frames, width].

        noise: standard deviation of the added noise in units of the vectors' own; 0 leaves labels as they are.
        """
        device = self.weights[0].device
        if noise <= 0:
            return self(torch.from_numpy(np.concatenate(labels)).to(device))
        labels = [misheard(clip, self.space.sizes, rng) for clip in labels]
        doubts = [doubt(clip, self.space.sizes[0], rng) for clip in labels]
        vectors = self(torch.from_numpy(np.concatenate(labels)).to(device))
        decoys_N2 = torch.from_numpy(np.concatenate([decoys for decoys, _ in doubts])).to(device)
        shares_N = torch.from_numpy(np.concatenate([shares for _, shares in doubts])).to(device)
        kinds = self.tables[0]
        true_N = torch.from_numpy(np.concatenate(labels)[:, 0]).to(device)
        vectors = vectors + shares_N[:, None] * (kinds(decoys_N2).mean(1) - kinds(true_N))
        drawn = torch.from_numpy(rng.standard_normal(vectors.shape, dtype=np.float32)).to(device)
        return vectors + drawn * vectors.detach().std() * noise


def doubt(
    labels_TF: npt.NDArray[np.int64], kinds: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Sounds of uncertain kind: for some events two other kinds [T, 2] and the share [T] they take of the kind's vector.

    An unknown recording makes the adaptor waver between kinds; the true one stays the strongest of the three, so the
    decoder learns to weigh what it hears against the options.
    """
    event_T = np.cumsum(labels_TF[:, PHASE_FACTOR] == ONSET)
    count = int(event_T.max(initial=0)) + 1
    decoys_T2 = rng.integers(1, kinds, (count, 2))[event_T]
    shares = np.where(rng.random(count) < DOUBTFUL_EVENTS, rng.uniform(0.0, MOST_DOUBT, count), 0.0)
    shares_T = np.where(labels_TF[:, 0] > 0, shares[event_T], 0.0)
    return decoys_T2, shares_T.astype(np.float32)


def misheard(labels_TF: npt.NDArray[np.int64], sizes: Sequence[int], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """A clip's labels with errors as real features cause them: late frames, a pitch or level one step off, a wrong kind."""
    out = labels_TF.copy()
    frames = len(out)
    late = np.flatnonzero(rng.random(frames) < 0.05)
    out[late] = out[np.maximum(late - 1, 0)]
    for factor, lowest, share in ((PITCH_FACTOR, 2, 0.1), (LEVEL_FACTOR, 1, 0.05)):
        wrong = np.flatnonzero((rng.random(frames) < share) & (out[:, factor] >= lowest))
        moved = out[wrong, factor] + rng.choice((-1, 1), len(wrong))
        out[wrong, factor] = np.clip(moved, lowest, sizes[factor] - 1)
    wrong = np.flatnonzero((rng.random(frames) < 0.05) & (out[:, 0] > 0))
    out[wrong, 0] = rng.integers(1, sizes[0], len(wrong))
    return out


def reply_logits(model: StepAudio2ForCausalLM, batch: TreeBatch, audio_NH: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [M, V] and targets [M] at the places of all replies; audio_NH follows `batch.order`, clip after clip."""
    device = audio_NH.device
    ids_BL = torch.from_numpy(batch.ids_BL).to(device)
    audio_BL = torch.from_numpy(batch.ids_BL == model.audio_patch_id).to(device)
    embeddings = model.model.embed_tokens(ids_BL)
    embeddings = embeddings.masked_scatter(audio_BL[..., None], audio_NH.to(embeddings.dtype))
    hidden = model.model(
        inputs_embeds=embeddings,
        attention_mask=_additive(torch.from_numpy(batch.mask_B1LL).to(device)),
        position_ids=torch.from_numpy(batch.places_BL).to(device),
        use_cache=False,
    ).last_hidden_state
    targets_BL = torch.from_numpy(batch.targets_BL).to(device)
    learned = targets_BL != IGNORED
    return model.lm_head(hidden[learned]), targets_BL[learned]


def reply_loss(model: StepAudio2ForCausalLM, batch: TreeBatch, audio_NH: Tensor) -> Tensor:
    """Mean cross-entropy over reply tokens."""
    logits, targets = reply_logits(model, batch, audio_NH)
    return F.cross_entropy(logits.float(), targets)


def _additive(mask_B1LL: Tensor) -> Tensor:
    """Boolean mask as the additive float mask that transformers hands to attention unchanged."""
    return torch.zeros(mask_B1LL.shape, device=mask_B1LL.device).masked_fill_(
        ~mask_B1LL, torch.finfo(torch.float32).min
    )

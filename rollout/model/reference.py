"""The whole model in plain torch, with the checkpoint's parameter names.

Neighbours: parity reference for the vLLM plugin and the Megatron model; the base build trains it; `random_checkpoint`
makes small folders for tests.
Invariants: `state_dict()` names are the public ones (`encoder.*`, `adapter.*`, `model.*`, `lm_head.*`); no batching
trick that could hide an error: full sequences, transformers' own Qwen2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from rollout.model.adaptor import Adaptor
from rollout.model.checkpoint import CheckpointError, load_weights, save_checkpoint
from rollout.model.config import LAST_LAYER, StepAudio2Config, StepAudio2EncoderConfig, load_config
from rollout.model.encoder import AudioEncoder, log_mel
from rollout.model.tokenizer import load_tokenizer, special_ids, train_tokenizer


class StepAudio2ForCausalLM(nn.Module):
    """Encoder (absent when `config.with_encoder` is False), adaptor and Qwen2 decoder.

    audio_patch_id: the placeholder's token id; needed by every call that gives features.
    """

    def __init__(self, config: StepAudio2Config, audio_patch_id: int | None = None, attention: str = "sdpa") -> None:
        super().__init__()
        decoder = Qwen2ForCausalLM._from_config(config.text_config, attn_implementation=attention)
        self.config = config
        self.audio_patch_id = audio_patch_id
        self.encoder = AudioEncoder(config.audio_encoder_config) if config.with_encoder else None
        self.adapter = Adaptor(config.audio_encoder_config)
        self.model = decoder.model
        self.lm_head = decoder.lm_head

    @classmethod
    def from_pretrained(
        cls,
        model_dir: str | Path,
        *,
        with_encoder: bool = True,
        attention: str = "sdpa",
        weights: Mapping[str, Tensor] | None = None,
    ) -> StepAudio2ForCausalLM:
        """fp32 model of a folder, in eval mode; `weights` replace those of the same names (e.g. a published update).

        Raises CheckpointError when names or shapes do not match the configuration.
        """
        config = load_config(model_dir)
        config.with_encoder = with_encoder
        patch_id = special_ids(load_tokenizer(model_dir)).audio_patch
        model = cls(config, patch_id, attention)
        stored = {**load_weights(model_dir), **(weights or {})}
        if not with_encoder:
            stored = {name: tensor for name, tensor in stored.items() if not name.startswith("encoder.")}
        if config.text_config.tie_word_embeddings:
            stored["lm_head.weight"] = stored["model.embed_tokens.weight"]
        try:
            model.load_state_dict({name: tensor.float() for name, tensor in stored.items()})
        except RuntimeError as error:
            raise CheckpointError(f"weights in {model_dir} do not fit its config.json: {error}") from error
        return model.eval()

    def save_pretrained(self, model_dir: str | Path, tokenizer: Any = None) -> Path:
        return save_checkpoint(model_dir, self.config, self.state_dict(), tokenizer)

    @torch.no_grad()
    def features(self, wave: np.ndarray) -> Tensor:
        """Waveform [L] at 16 kHz -> [T25, feature_dim]. Raises ValueError when built without the encoder."""
        if self.encoder is None:
            raise ValueError("this model was built with_encoder=False; give precomputed features")
        return self.encoder(log_mel(wave, self.config.audio_encoder_config.n_mels))

    def embed(self, input_ids_BT: Tensor, features: Sequence[Tensor] = ()) -> Tensor:
        """Embeddings [B, T, H]; placeholders take the adaptor's outputs of `features` ([T25, D] each) in reading order.

        Raises ValueError when the placeholders and the adaptor's outputs differ in number.
        """
        embeddings = self.model.embed_tokens(input_ids_BT)
        mask = input_ids_BT == self.audio_patch_id if self.audio_patch_id is not None else None
        places = 0 if mask is None else int(mask.sum())
        if not features and not places:
            return embeddings
        audio = self.adapter.forward_many(features) if features else embeddings.new_zeros(0, embeddings.shape[-1])
        if mask is None or places != len(audio):
            raise ValueError(
                f"{places} audio placeholders for {len(audio)} adaptor outputs; expand the prompt once, as built"
            )
        return embeddings.masked_scatter(mask[..., None], audio.to(embeddings.dtype))

    def forward(
        self, input_ids_BT: Tensor, features: Sequence[Tensor] = (), attention_mask_BT: Tensor | None = None
    ) -> Tensor:
        """Logits [B, T, V] of expanded, right-padded ids."""
        hidden = self.model(
            inputs_embeds=self.embed(input_ids_BT, features), attention_mask=attention_mask_BT, use_cache=False
        )
        return self.lm_head(hidden.last_hidden_state)

    @torch.no_grad()
    def log_probs(
        self, prompt_ids: Sequence[int], response_ids: Sequence[int], features: Sequence[Tensor] = ()
    ) -> Tensor:
        """Natural log-probs [R] of the response after the expanded prompt, temperature 1."""
        ids = torch.tensor([[*prompt_ids, *response_ids]], device=self.lm_head.weight.device)
        logits = self(ids, features)[0, len(prompt_ids) - 1 : -1].float()
        return torch.log_softmax(logits, -1).gather(1, ids[0, len(prompt_ids) :, None])[:, 0]


SAMPLE_TEXT = (
    "human\nWhich sound comes first?\nA. a dog\nB. a violin\nassistant\nI hear a dog, then a violin.\nSo a dog.",
    "human\nHow many events are there?\nassistant\nEvents at 0.2 s, 0.7 s, 1.2 s.\nSo 3.",
    "human\nWhich note is higher?\nassistant\nNote 1 is about 440 Hz. Note 2 is about 622 Hz.\nSo the second.",
    "human\nWhich is louder?\nassistant\nLevel 1 is about -9 dB. Level 2 is about 0 dB.\nSo the second.",
)


def random_config(
    vocab_size: int,
    *,
    hidden: int = 128,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    encoder_state: int = 64,
    encoder_layers: int = 2,
    feature_layers: Sequence[int] = (1, LAST_LAYER),
    feature_standardize: bool = True,
    mel_trim: int = 2,
    tie_word_embeddings: bool = True,
    eos_token_id: int | None = None,
    pad_token_id: int | None = None,
) -> StepAudio2Config:
    """A configuration small enough for tests (head size 32, the least that vLLM's CPU attention takes)."""
    text = Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=4096,
        tie_word_embeddings=tie_word_embeddings,
        bos_token_id=None,
        eos_token_id=eos_token_id,
        pad_token_id=pad_token_id,
        dtype="float32",
    )
    audio = StepAudio2EncoderConfig(
        n_mels=80,
        n_audio_state=encoder_state,
        n_audio_head=2,
        n_audio_layer=encoder_layers,
        llm_dim=hidden,
        adapter_state=hidden,
        feature_layers=feature_layers,
        feature_standardize=feature_standardize,
        adapter_channels=hidden,
        mel_trim=mel_trim,
    )
    return StepAudio2Config(
        text_config=text,
        audio_encoder_config=audio,
        architectures=["StepAudio2ForCausalLM"],
        eos_token_id=eos_token_id,
        pad_token_id=pad_token_id,
        dtype="float32",
    )


def random_checkpoint(
    model_dir: str | Path, seed: int = 0, *, vocab_size: int = 320, texts: Sequence[str] = SAMPLE_TEXT, **sizes: Any
) -> Path:
    """Writes a complete small model folder with random weights and its own tokenizer; returns the folder.

    `sizes` go to `random_config`. The logits are spread (a flat distribution would hide errors) and audio matters.
    The configured vocabulary is the tokenizer's length, so no id without text can be sampled.
    """
    tokenizer = train_tokenizer(texts, vocab_size)
    config = random_config(
        len(tokenizer), eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, **sizes
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = StepAudio2ForCausalLM(config)
        with torch.no_grad():
            model.lm_head.weight.mul_(4)
            model.adapter.linear2.weight.mul_(3)
            if model.encoder is not None:
                model.encoder.positional_embedding.weight.mul_(0.3)
                if config.audio_encoder_config.feature_standardize:
                    model.encoder.feature_mean.normal_(std=0.1)
                    model.encoder.feature_scale.uniform_(0.5, 2.0)
    return model.save_pretrained(model_dir, tokenizer)


def trainable_parameters(config: StepAudio2Config) -> int:
    """Adaptor and decoder parameters of a model of this configuration; nothing is allocated."""
    bare = StepAudio2Config(config.text_config, config.audio_encoder_config, with_encoder=False)
    with torch.device("meta"):
        model = StepAudio2ForCausalLM(bare)
    return sum(parameter.numel() for parameter in model.parameters())

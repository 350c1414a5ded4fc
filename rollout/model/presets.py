"""Named model sizes.

Neighbours: `resolve` finds the weights of a preset, the base build takes the tiny configuration from here.
Invariants: `step_audio_2_mini` and `step_audio_r1` have the public checkpoints' names and shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import Qwen2Config

from rollout.model.config import LAST_LAYER, StepAudio2Config, StepAudio2EncoderConfig

ARCHITECTURE = "StepAudio2ForCausalLM"
PUBLIC_VOCABULARY = 158720
PUBLIC_PAD, PUBLIC_EOT = 151643, 151665


def whisper_tiny_en_config(llm_dim: int, **changes: Any) -> StepAudio2EncoderConfig:
    """The tiny preset's encoder and adaptor: Whisper tiny.en, first and last layer (pitch lives in the first)."""
    fields: dict[str, Any] = {
        "n_mels": 80,
        "n_audio_state": 384,
        "n_audio_head": 6,
        "n_audio_layer": 4,
        "feature_layers": [1, LAST_LAYER],
        "feature_standardize": True,
        "adapter_channels": 256,
        "adapter_state": 256,
    }
    return StepAudio2EncoderConfig(llm_dim=llm_dim, **{**fields, **changes})


def tiny(
    vocab_size: int = 576, layers: int = 6, eos_token_id: int = 2, pad_token_id: int = 0, **decoder: Any
) -> StepAudio2Config:
    """Whisper tiny.en encoder, a decoder of 1.0-1.3 M parameters. `decoder`: changes to the Qwen2 configuration."""
    fields: dict[str, Any] = {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
    }
    return _assemble(
        {**fields, **decoder, "vocab_size": vocab_size, "num_hidden_layers": layers},
        whisper_tiny_en_config(decoder.get("hidden_size", 128)),
        (pad_token_id, eos_token_id),
        "float32",
    )


def small() -> StepAudio2Config:
    """Whisper base encoder, decoder of SmolLM2-135M's shape, its 49,152 tokens grown by five of ours (audio and think marks)."""
    decoder = {
        "vocab_size": 49157,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100000.0,
        "tie_word_embeddings": True,
    }
    audio = StepAudio2EncoderConfig(
        n_mels=80,
        n_audio_state=512,
        n_audio_head=8,
        n_audio_layer=6,
        llm_dim=576,
        adapter_state=1024,
        feature_layers=[1, LAST_LAYER],
        feature_standardize=True,
        adapter_channels=512,
    )
    return _assemble(decoder, audio, (0, 2), "bfloat16")


def step_audio_2_mini() -> StepAudio2Config:
    """The public 7 B model."""
    return _public(hidden=3584, layers=28, heads=28, kv_heads=4, intermediate=18944)


def step_audio_r1() -> StepAudio2Config:
    """The public 32 B model: the same audio side on a Qwen2.5 32B decoder."""
    return _public(hidden=5120, layers=64, heads=40, kv_heads=8, intermediate=27648)


PRESETS: dict[str, Callable[[], StepAudio2Config]] = {
    "tiny": tiny,
    "small": small,
    "step_audio_2_mini": step_audio_2_mini,
    "step_audio_r1": step_audio_r1,
}


def preset_config(name: str) -> StepAudio2Config:
    """Configuration of a preset. Raises KeyError naming the presets there are."""
    if name not in PRESETS:
        raise KeyError(f"no model preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]()


def _public(hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int) -> StepAudio2Config:
    decoder = {
        "vocab_size": PUBLIC_VOCABULARY,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 16384,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
    }
    return _assemble(decoder, StepAudio2EncoderConfig(llm_dim=hidden), (PUBLIC_PAD, PUBLIC_EOT), "bfloat16")


def _assemble(
    decoder: dict[str, Any], audio: StepAudio2EncoderConfig, pad_and_eos: tuple[int, int], dtype: str
) -> StepAudio2Config:
    pad, eos = pad_and_eos
    text = Qwen2Config(**decoder, bos_token_id=None, pad_token_id=pad, eos_token_id=eos, dtype=dtype)
    return StepAudio2Config(
        text_config=text,
        audio_encoder_config=audio,
        architectures=[ARCHITECTURE],
        pad_token_id=pad,
        eos_token_id=eos,
        dtype=dtype,
    )

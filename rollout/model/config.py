"""Configuration of Step-Audio 2 / Step-Audio-R1: audio encoder + adaptor + Qwen2 decoder.

Neighbours: everything that builds the model reads this; `register_config` lets transformers and vLLM find it by type.
Invariants: field names follow the public checkpoints; each field of our own has a default that means "as the public
checkpoints do", so that their config.json loads unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig, Qwen2Config

LAST_LAYER = -1


class StepAudio2EncoderConfig(PretrainedConfig):
    """Audio encoder and adaptor.

    n_mels, n_audio_ctx (positions at 50 Hz), n_audio_state, n_audio_head, n_audio_layer: the Whisper-like encoder.
    llm_dim: decoder width; kernel_size, adapter_stride: the adaptor's convolution; adapter_state: its hidden width.
    feature_layers: blocks whose output serves as feature, 1-based; -1 is the last one with its final norm. Outputs are
    pooled to 25 Hz and concatenated. feature_standardize: features leave the encoder as (x - feature_mean) *
    feature_scale. adapter_channels: channels of the adaptor's convolution, None for n_audio_state. mel_trim: mel frames
    taken off the length before the convolutions' length rule (2: the released clients' rule, 0: every frame counts).

    Raises ValueError for values that no model can be built from.
    """

    model_type = "step_audio_2_encoder"

    def __init__(
        self,
        *,
        n_mels: int = 128,
        n_audio_ctx: int = 1500,
        n_audio_state: int = 1280,
        n_audio_head: int = 20,
        n_audio_layer: int = 32,
        llm_dim: int = 3584,
        kernel_size: int = 3,
        adapter_stride: int = 2,
        adapter_state: int = 2048,
        feature_layers: Sequence[int] = (LAST_LAYER,),
        feature_standardize: bool = False,
        adapter_channels: int | None = None,
        mel_trim: int = 2,
        **kwargs: Any,
    ) -> None:
        self.n_mels = n_mels
        self.n_audio_ctx = n_audio_ctx
        self.n_audio_state = n_audio_state
        self.n_audio_head = n_audio_head
        self.n_audio_layer = n_audio_layer
        self.llm_dim = llm_dim
        self.kernel_size = kernel_size
        self.adapter_stride = adapter_stride
        self.adapter_state = adapter_state
        self.feature_layers = list(feature_layers)
        self.feature_standardize = feature_standardize
        self.adapter_channels = adapter_channels
        self.mel_trim = mel_trim
        super().__init__(**kwargs)
        self._check()

    def _check(self) -> None:
        if not self.feature_layers:
            raise ValueError("audio_encoder_config.feature_layers is empty; give block numbers, e.g. [-1]")
        for layer in self.feature_layers:
            if layer != LAST_LAYER and not 1 <= layer <= self.n_audio_layer:
                raise ValueError(
                    f"audio_encoder_config.feature_layers holds {layer}; "
                    f"blocks are 1..{self.n_audio_layer}, or -1 for the last"
                )
        if self.mel_trim not in (0, 2):
            raise ValueError(f"audio_encoder_config.mel_trim is {self.mel_trim}; it is 2 (released rule) or 0")
        if self.n_audio_state % self.n_audio_head:
            raise ValueError(
                f"audio_encoder_config.n_audio_state {self.n_audio_state} is not a multiple of "
                f"n_audio_head {self.n_audio_head}"
            )

    @property
    def feature_dim(self) -> int:
        """Width D of the encoder's features [T25, D]."""
        return len(self.feature_layers) * self.n_audio_state

    @property
    def conv_channels(self) -> int:
        """Output channels of the adaptor's convolution."""
        return self.adapter_channels or self.n_audio_state


class StepAudio2Config(PretrainedConfig):
    """The whole model: `text_config` (Qwen2) and `audio_encoder_config`.

    with_encoder: False builds the model without encoder weights; only precomputed features are then accepted.
    """

    model_type = "step_audio_2"
    sub_configs = {"text_config": Qwen2Config, "audio_encoder_config": StepAudio2EncoderConfig}  # noqa: RUF012

    def __init__(
        self,
        text_config: Qwen2Config | Mapping[str, Any] | None = None,
        audio_encoder_config: StepAudio2EncoderConfig | Mapping[str, Any] | None = None,
        with_encoder: bool = True,
        **kwargs: Any,
    ) -> None:
        if not isinstance(audio_encoder_config, StepAudio2EncoderConfig):
            fields = {k: v for k, v in (audio_encoder_config or {}).items() if k != "model_type"}
            audio_encoder_config = StepAudio2EncoderConfig(**fields)
        if not isinstance(text_config, Qwen2Config):
            text_config = _text_config({"hidden_size": audio_encoder_config.llm_dim, **(text_config or {})})
        self.text_config = text_config
        self.audio_encoder_config = audio_encoder_config
        self.with_encoder = with_encoder
        kwargs.setdefault("tie_word_embeddings", text_config.tie_word_embeddings)
        super().__init__(**kwargs)
        if audio_encoder_config.llm_dim != text_config.hidden_size:
            raise ValueError(
                f"audio_encoder_config.llm_dim {audio_encoder_config.llm_dim} differs from "
                f"text_config.hidden_size {text_config.hidden_size}; make them equal"
            )


def _text_config(fields: Mapping[str, Any]) -> Qwen2Config:
    """Qwen2Config from public config fields, which may say `num_attention_groups` and `max_seq_len`."""
    fields = {k: v for k, v in fields.items() if k != "model_type"}
    for public, ours in (("num_attention_groups", "num_key_value_heads"), ("max_seq_len", "max_position_embeddings")):
        value = fields.pop(public, None)
        if value is not None:
            fields.setdefault(ours, value)
    return Qwen2Config(**fields)


def register_config() -> None:
    """Makes both model types known to transformers' Auto classes. Safe to call more than once."""
    AutoConfig.register(StepAudio2EncoderConfig.model_type, StepAudio2EncoderConfig, exist_ok=True)
    AutoConfig.register(StepAudio2Config.model_type, StepAudio2Config, exist_ok=True)


def load_config(model_dir: str | Path) -> StepAudio2Config:
    """Configuration of a model folder. Raises OSError when there is no readable config.json."""
    if not (Path(model_dir) / "config.json").is_file():
        raise FileNotFoundError(f"{model_dir} holds no config.json; give a Hugging Face model folder")
    return StepAudio2Config.from_pretrained(str(model_dir))

"""The numbers of a model that memory depends on, and exact parameter counts from them (pure).

Neighbours: `training`, `activations` and `engines` calculate with them. Invariants: a count follows the architecture as
`rollout.model.reference` builds it (a test compares on the meta device); nothing is allocated.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from actor import VOCAB_MULTIPLE
from orchestrator.config.schema import ExperimentConfig
from rollout import BASE_DIR, StepAudio2Config, load_config, preset_config


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """hidden H, ffn F, layers L, heads h, kv_heads g, head_dim D, vocab V of the decoder; tied: head and embedding are one matrix;
    adaptor, encoder: parameters of the audio side."""

    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    adaptor: int
    encoder: int

    @property
    def padded_vocab(self) -> int:
        return -(-self.vocab // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

    @property
    def attention_layer(self) -> int:
        """q, k, v with biases, and the output projection without: (H + 1)(h + 2g)D + H h D."""
        return (self.hidden + 1) * (
            self.heads + 2 * self.kv_heads
        ) * self.head_dim + self.hidden * self.heads * self.head_dim

    @property
    def mlp_layer(self) -> int:
        """gate, up and down: 3 H F."""
        return 3 * self.hidden * self.ffn

    @property
    def layer(self) -> int:
        """One decoder layer with its two norms."""
        return self.attention_layer + self.mlp_layer + 2 * self.hidden

    @property
    def decoder(self) -> int:
        """Embedding, layers, final norm, and the head unless it is tied."""
        matrices = 1 if self.tied else 2
        return matrices * self.vocab * self.hidden + self.layers * self.layer + self.hidden

    @property
    def trainable(self) -> int:
        """Adaptor and decoder, as `rollout.trainable_parameters` counts them."""
        return self.adaptor + self.decoder


def sizes_of(config: StepAudio2Config) -> ModelSizes:
    text, audio = config.text_config, config.audio_encoder_config
    width, channels = audio.n_audio_state, audio.conv_channels
    block = 12 * width**2 + 12 * width  # matrices; biases 8 d (none for the key) and two norms 4 d
    encoder = (
        3 * audio.n_mels * width
        + 3 * width**2
        + 2 * width
        + audio.n_audio_ctx * width
        + audio.n_audio_layer * block
        + 2 * width
        + (2 * audio.feature_dim if audio.feature_standardize else 0)
    )
    adaptor = (
        (audio.feature_dim * audio.kernel_size + 1) * channels
        + (channels + 1) * audio.adapter_state
        + (audio.adapter_state + 1) * audio.llm_dim
    )
    return ModelSizes(
        hidden=text.hidden_size,
        ffn=text.intermediate_size,
        layers=text.num_hidden_layers,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        vocab=text.vocab_size,
        tied=bool(text.tie_word_embeddings),
        adaptor=adaptor,
        encoder=encoder,
    )


def model_sizes(config: ExperimentConfig) -> ModelSizes:
    """Of the folder in model.path, of the base that the package brings for `tiny`, or of the preset."""
    folder = Path(config.model.path) if config.model.path else None
    if folder is None and config.model.name == "tiny" and (BASE_DIR / "config.json").is_file():
        folder = BASE_DIR
    return sizes_of(load_config(folder) if folder and folder.is_dir() else preset_config(config.model.name))

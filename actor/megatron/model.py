"""The trained model on Megatron-core: adaptor + GPTModel over packed rows, as policy or as value model.

Neighbours: `actor.megatron.batch` makes its input, `actor.megatron.weights` maps its parameters to checkpoint names,
`actor.trainer` wraps it in Megatron's DDP.
Invariants: head matrices run on response rows only; log-probs, entropies and values come out in float32; audio rows take the
adaptor's output of the same features the engine was given.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F

from actor.megatron.attention import PackedCoreAttention, RMSNorm
from actor.megatron.batch import MicroBatch
from actor.megatron.device import ensure_importable
from rollout import StepAudio2Config
from rollout.model.adaptor import Adaptor

ensure_importable()

from megatron.core import parallel_state  # noqa: E402
from megatron.core.enums import ModelType  # noqa: E402
from megatron.core.models.gpt import GPTModel  # noqa: E402
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec  # noqa: E402
from megatron.core.tensor_parallel.mappings import reduce_from_tensor_model_parallel_region  # noqa: E402
from megatron.core.transformer.module import MegatronModule  # noqa: E402
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules  # noqa: E402
from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402

# The vocabulary is padded to a multiple of this in every layout, so that checkpoints of all layouts have equal shapes.
VOCAB_MULTIPLE = 8


class ModelError(ValueError):
    """A model that this trainer cannot build in this layout; the message names the config field."""


class TokenOutputs(NamedTuple):
    """Policy: log-prob and entropy of each response token, float32 [T]."""

    logprobs_T: torch.Tensor
    entropies_T: torch.Tensor


def padded_vocab(vocab_size: int) -> int:
    return -(-vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


def transformer_config(config: StepAudio2Config, dtype: torch.dtype, tensor_parallel: int) -> TransformerConfig:
    """Megatron's view of the decoder. Raises ModelError when sizes do not divide by `tensor_parallel`."""
    text = config.text_config
    for field in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
        if getattr(text, field) % tensor_parallel:
            raise ModelError(
                f"text_config.{field}={getattr(text, field)} does not divide by tensor_parallel={tensor_parallel}"
            )
    if VOCAB_MULTIPLE % tensor_parallel:
        raise ModelError(f"tensor_parallel={tensor_parallel} is not a divisor of {VOCAB_MULTIPLE} (vocabulary padding)")
    return TransformerConfig(
        num_layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        ffn_hidden_size=text.intermediate_size,
        num_attention_heads=text.num_attention_heads,
        num_query_groups=text.num_key_value_heads,
        kv_channels=head_dim(config),
        normalization="RMSNorm",
        layernorm_epsilon=text.rms_norm_eps,
        activation_func=F.silu,
        gated_linear_unit=True,
        add_bias_linear=False,
        add_qkv_bias=True,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        bias_activation_fusion=False,
        masked_softmax_fusion=False,
        bias_dropout_fusion=False,
        apply_rope_fusion=False,
        gradient_accumulation_fusion=False,
        use_cpu_initialization=True,
        perform_initialization=False,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype == torch.bfloat16,
        tensor_model_parallel_size=tensor_parallel,
        calculate_per_token_loss=True,
    )


def head_dim(config: StepAudio2Config) -> int:
    text = config.text_config
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def rotary_base(config: StepAudio2Config) -> float:
    """Raises ModelError for a rotary scaling that this trainer does not compute."""
    parameters = config.text_config.rope_parameters
    if parameters.get("rope_type", "default") != "default":
        raise ModelError(
            f"text_config.rope_parameters.rope_type={parameters['rope_type']!r} is not supported; use default"
        )
    return float(parameters["rope_theta"])


def _block_spec(layers: int) -> TransformerBlockSubmodules:
    layer = get_gpt_layer_local_spec(normalization="RMSNorm")
    layer.submodules.self_attention.submodules.core_attention = PackedCoreAttention
    layer.submodules.input_layernorm = layer.submodules.pre_mlp_layernorm = RMSNorm
    return TransformerBlockSubmodules(layer_specs=[layer] * layers, layer_norm=RMSNorm)


class AudioGPT(MegatronModule):
    """Adaptor and decoder. critic: a value head (one output, starts at zero) replaces the language-model head.

    with_adapter=False: the caller always hands in finished audio rows (frozen adaptor, computed once a clip).
    """

    def __init__(
        self, config: StepAudio2Config, megatron: TransformerConfig, critic: bool, with_adapter: bool = True
    ) -> None:
        super().__init__(megatron)
        text = config.text_config
        self.model_type = ModelType.encoder_or_decoder
        self.critic = critic
        self.vocab_size = text.vocab_size
        self.share_embeddings_and_output_weights = bool(config.tie_word_embeddings) and not critic
        self.adapter = Adaptor(config.audio_encoder_config).to(megatron.params_dtype) if with_adapter else None
        self.language_model = GPTModel(
            megatron,
            _block_spec(text.num_hidden_layers),
            vocab_size=padded_vocab(text.vocab_size),
            max_sequence_length=text.max_position_embeddings,
            parallel_output=True,
            share_embeddings_and_output_weights=self.share_embeddings_and_output_weights,
            position_embedding_type="none",  # rows carry their own positions, see attention.py
        )
        if critic:
            self.language_model.output_layer = torch.nn.Linear(
                text.hidden_size, 1, bias=False, dtype=megatron.params_dtype
            )
            torch.nn.init.zeros_(self.language_model.output_layer.weight)

    def set_input_tensor(self, input_tensor: torch.Tensor | list[torch.Tensor | None]) -> None:
        """Called by Megatron's schedule; without pipeline stages there is never an input from before."""

    def shared_embedding_or_output_weight(self) -> torch.Tensor:
        return self.language_model.shared_embedding_or_output_weight()

    def forward(self, batch: MicroBatch, with_entropy_grad: bool = False) -> TokenOutputs | torch.Tensor:
        """Policy: `TokenOutputs`; critic: values [T] of the states before each response token."""
        hidden_T1H = self._hidden(batch).index_select(0, batch.response_rows_T)
        if self.critic:
            return self.language_model.output_layer(hidden_T1H).float()[:, 0, 0]
        weight = self.shared_embedding_or_output_weight() if self.share_embeddings_and_output_weights else None
        logits_T1V, _ = self.language_model.output_layer(hidden_T1H, weight=weight)
        return token_outputs(logits_T1V[:, 0], batch.targets_T, self.vocab_size, with_entropy_grad)

    def _hidden(self, batch: MicroBatch) -> torch.Tensor:
        hidden_N1H = self.language_model.embedding(input_ids=batch.input_ids_N[None], position_ids=None)
        if len(batch.audio_rows_A):
            if batch.audio_AH is not None:
                audio_AH = batch.audio_AH
            elif self.adapter is not None:
                audio_AH = self.adapter.forward_many(batch.features)
            else:
                raise ModelError("the batch brings encoder features but this model has no adaptor")
            hidden_N1H = hidden_N1H.index_copy(0, batch.audio_rows_A, audio_AH[:, None].to(hidden_N1H.dtype))
        return self.language_model.decoder(hidden_N1H, attention_mask=None, packed_seq_params=batch.attention)


def token_outputs(
    logits_TV: torch.Tensor, targets_T: torch.Tensor, vocab_size: int, with_entropy_grad: bool
) -> TokenOutputs:
    """Log-probs and entropies [T] from logits whose vocabulary is split over tensor-parallel ranks ([T, V / ranks])."""
    group = parallel_state.get_tensor_model_parallel_group()
    width = logits_TV.shape[1]
    first = parallel_state.get_tensor_model_parallel_rank() * width
    logits_TV = logits_TV[:, : max(0, vocab_size - first)].float()
    highest_T1 = logits_TV.detach().amax(1, keepdim=True)
    if group.size() > 1:
        dist.all_reduce(highest_T1, op=dist.ReduceOp.MAX, group=group)
    shifted_TV = logits_TV - highest_T1
    exponentials_TV = shifted_TV.exp()
    total_T = reduce_from_tensor_model_parallel_region(exponentials_TV.sum(1))
    local_T = targets_T - first
    here_T = (local_T >= 0) & (local_T < shifted_TV.shape[1])
    picked_T = shifted_TV.gather(1, torch.where(here_T, local_T, 0)[:, None])[:, 0]
    target_T = reduce_from_tensor_model_parallel_region(torch.where(here_T, picked_T, 0.0))
    log_total_T = total_T.log()
    with torch.set_grad_enabled(with_entropy_grad and torch.is_grad_enabled()):
        weighted_T = reduce_from_tensor_model_parallel_region((exponentials_TV * shifted_TV).sum(1))
        entropies_T = log_total_T - weighted_T / total_T
    return TokenOutputs(target_T - log_total_T, entropies_T)

"""The trained model on Megatron-core: adaptor + GPTModel over packed rows, as policy or as value model.

Neighbours: `actor.megatron.batch` makes its input, `actor.megatron.head` turns its last hidden states into log-probs,
`actor.megatron.weights` maps its parameters to checkpoint names, `actor.trainer` wraps it in Megatron's DDP.
Invariants: head matrices run on response rows only; log-probs, entropies and values come out in float32, for all response
tokens of a micro-batch on every tensor- and context-parallel rank of the last pipeline stage, so that losses need not know the
layout; audio rows take the adaptor's output of the same features the engine was given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from actor.kernels import TORCH, Kernels
from actor.layout import VOCAB_MULTIPLE, Layout, logits_at_once
from actor.megatron import lora
from actor.megatron.batch import MicroBatch
from actor.megatron.device import ensure_importable
from actor.megatron.head import HeadChunks, TokenOutputs, VocabularyPart, token_outputs
from actor.megatron.parts import TORCH_PARTS, LayerParts, block_spec
from rollout import StepAudio2Config
from rollout.model.adaptor import Adaptor

ensure_importable()

from megatron.core import parallel_state  # noqa: E402
from megatron.core.enums import ModelType  # noqa: E402
from megatron.core.models.gpt import GPTModel  # noqa: E402
from megatron.core.tensor_parallel.mappings import (  # noqa: E402
    gather_from_sequence_parallel_region,
    scatter_to_sequence_parallel_region,
)
from megatron.core.transformer.module import MegatronModule  # noqa: E402
from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset  # noqa: E402


class ModelError(ValueError):
    """A model that this trainer cannot build in this layout; the message names the config field."""


def padded_vocab(vocab_size: int) -> int:
    return -(-vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


class Compute(Protocol):
    """What of a trainer's spec decides how the decoder is computed."""

    @property
    def dtype(self) -> str: ...

    @property
    def recompute(self) -> str: ...


def transformer_config(
    config: StepAudio2Config, spec: Compute, layout: Layout, kernels: Kernels = TORCH
) -> TransformerConfig:
    """Megatron's view of the decoder. Raises LayoutError when sizes do not divide by the layout's."""
    text = config.text_config
    dtype: torch.dtype = getattr(torch, spec.dtype)
    layout.check_model(
        heads=text.num_attention_heads,
        key_value_heads=text.num_key_value_heads,
        ffn=text.intermediate_size,
        layers=text.num_hidden_layers,
    )
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
        bias_activation_fusion=kernels.engine,
        use_te_activation_func=not kernels.engine,  # Megatron's word for an activation that is a module of the layer spec
        masked_softmax_fusion=False,
        bias_dropout_fusion=False,
        apply_rope_fusion=False,
        gradient_accumulation_fusion=kernels.gradient_fusion,
        use_cpu_initialization=True,
        perform_initialization=False,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype == torch.bfloat16,
        tensor_model_parallel_size=layout.tensor,
        sequence_parallel=layout.sequence,
        pipeline_model_parallel_size=layout.pipeline,
        context_parallel_size=layout.context,
        calculate_per_token_loss=True,
        # Micro-batches differ in rows, so stages send shapes first; Megatron allows that only beside this dispatcher's name.
        variable_seq_lengths=layout.pipeline > 1,
        moe_token_dispatcher_type="alltoall",
        batch_p2p_comm=False,
        **_recompute(spec.recompute),
    )


def _recompute(what: str) -> dict[str, Any]:
    """Megatron's words for what the backward pass computes again."""
    match what:
        case "selective":
            return {"recompute_granularity": "selective", "recompute_modules": ["core_attn"]}
        case "full":
            return {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    return {}


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


class AudioGPT(MegatronModule):
    """Adaptor and decoder, or the layers of them that this rank's pipeline stage holds: adaptor and embedding are on the first
    stage, final norm and head on the last. critic: a value head (one output, starts at zero) replaces the language-model head;
    parts: what the layers are made of; low_rank: updates that are trained in place of the decoder's weights.

    with_adapter=False: the caller always hands in finished audio rows (frozen adaptor, computed once a clip);
    adapter_is_kept=False: its adaptor is a copy that checkpoints leave out, since which rank has one depends on the layout.
    """

    def __init__(
        self,
        config: StepAudio2Config,
        megatron: TransformerConfig,
        critic: bool,
        chunks: HeadChunks,
        *,
        parts: LayerParts = TORCH_PARTS,
        low_rank: lora.Lora | None = None,
        with_adapter: bool = True,
        adapter_is_kept: bool = True,
    ) -> None:
        super().__init__(megatron)
        self._adapter_is_kept = adapter_is_kept
        text = config.text_config
        self.model_type = ModelType.encoder_or_decoder
        self.critic = critic
        self.low_rank = low_rank is not None
        self.fused_norms = parts.fused_norms(low_rank)
        self.vocab_size = text.vocab_size
        self.chunks = HeadChunks(*logits_at_once(chunks.rows, chunks.vocab, max(1, self._part().size)))
        self.audio_config = config.audio_encoder_config
        self.share_embeddings_and_output_weights = bool(config.tie_word_embeddings) and not critic
        self.pre_process = parallel_state.is_pipeline_first_stage()
        self.post_process = parallel_state.is_pipeline_last_stage()
        self.first_layer = get_transformer_layer_offset(megatron)
        with_adapter = with_adapter and self.pre_process
        self.adapter = Adaptor(config.audio_encoder_config).to(megatron.params_dtype) if with_adapter else None
        self.language_model = GPTModel(
            megatron,
            block_spec(megatron, parts, low_rank),
            vocab_size=padded_vocab(text.vocab_size),
            max_sequence_length=text.max_position_embeddings,
            pre_process=self.pre_process,
            post_process=self.post_process,
            parallel_output=True,
            share_embeddings_and_output_weights=self.share_embeddings_and_output_weights,
            position_embedding_type="none",  # rows carry their own positions, see attention.py
            scatter_embedding_sequence_parallel=False,  # after the audio rows are in place
        )
        if critic and self.post_process:
            self.language_model.output_layer = torch.nn.Linear(
                text.hidden_size, 1, bias=False, dtype=megatron.params_dtype
            )
            torch.nn.init.zeros_(self.language_model.output_layer.weight)

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None) -> dict[str, Any]:
        """What a checkpoint keeps of this rank's part, by Megatron's name: the same with all kernels."""
        state = super().sharded_state_dict(prefix, sharded_offsets, metadata)
        return {name: value for name, value in state.items() if self._kept(name.removeprefix(prefix))}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """What checkpoints leave out stays as it is."""
        own = {name: value for name, value in self.state_dict().items() if not self._kept(name)}
        return super().load_state_dict(own | dict(state_dict), strict, assign)

    def _kept(self, name: str) -> bool:
        """Whether checkpoints have it: not a shared adaptor, nor the scales that Transformer Engine keeps for 8-bit numbers."""
        return not name.endswith("_extra_state") and (self._adapter_is_kept or not name.startswith("adapter."))

    def set_input_tensor(self, input_tensor: torch.Tensor | list[torch.Tensor | None]) -> None:
        """Called by Megatron's schedule: what the pipeline stage before sent, None on the first."""
        self.language_model.set_input_tensor(input_tensor)

    def shared_embedding_or_output_weight(self) -> torch.Tensor:
        return self.language_model.shared_embedding_or_output_weight()

    def forward(self, batch: MicroBatch, with_entropy_grad: bool = False) -> TokenOutputs | torch.Tensor:
        """Policy: `TokenOutputs`; critic: values [T] of the states before each response token; on a pipeline stage before the
        last: hidden states [N, 1, H] for the next one (N split over tensor-parallel ranks under sequence parallelism)."""
        hidden_N1H = self.language_model.decoder(
            self._embedded(batch) if self.pre_process else None,
            attention_mask=None,
            packed_seq_params=batch.attention,
        )
        if not self.post_process:
            return hidden_N1H
        if self.config.sequence_parallel:
            # Every tensor-parallel rank goes on with all rows, and gets the whole gradient of each back.
            hidden_N1H = gather_from_sequence_parallel_region(hidden_N1H, tensor_parallel_output_grad=False)
            hidden_N1H = hidden_N1H.index_select(0, batch.head_rows_K)
        hidden_KH = hidden_N1H[:, 0]  # see `last_layer`
        if self.critic:
            return _all_tokens(self.language_model.output_layer(hidden_KH).float()[:, 0], batch)
        outputs = token_outputs(
            hidden_KH,
            self._head_weight(),
            batch.head_targets_K,
            self._part(),
            self.chunks,
            with_entropy_grad and torch.is_grad_enabled(),
        )
        return TokenOutputs(*(_all_tokens(values_K, batch) for values_K in outputs))

    def _embedded(self, batch: MicroBatch) -> torch.Tensor:
        hidden_N1H = self.language_model.embedding(input_ids=batch.input_ids_N[None], position_ids=None)
        if len(batch.audio_rows_A):
            if batch.audio_AH is not None:
                audio_AH = batch.audio_AH
            elif self.adapter is not None:
                audio_AH = self.adapter.forward_many(batch.features).index_select(0, batch.audio_picks_A)
            else:
                raise ModelError("the batch brings encoder features but this model has no adaptor")
            hidden_N1H = hidden_N1H.index_copy(0, batch.audio_rows_A, audio_AH[:, None].to(hidden_N1H.dtype))
        if self.config.recompute_granularity and torch.is_grad_enabled() and not hidden_N1H.requires_grad:
            hidden_N1H.requires_grad_()  # a layer that is computed again passes no gradient on unless its input takes one
        return scatter_to_sequence_parallel_region(hidden_N1H) if self.config.sequence_parallel else hidden_N1H

    def _head_weight(self) -> torch.Tensor:
        if self.share_embeddings_and_output_weights:
            return self.shared_embedding_or_output_weight()
        return self.language_model.output_layer.weight

    def _part(self) -> VocabularyPart:
        group = parallel_state.get_tensor_model_parallel_group()
        width = padded_vocab(self.vocab_size) // group.size()
        first = width * group.rank()
        return VocabularyPart(first, max(0, min(width, self.vocab_size - first)), group if group.size() > 1 else None)


def _all_tokens(values_K: torch.Tensor, batch: MicroBatch) -> torch.Tensor:
    """[T] from the values of each context-parallel rank's own tokens. Every rank computes the whole loss from it; the gradients
    that come back are summed over these ranks, and so is the count of tokens that Megatron divides by."""
    if batch.order_T is None:
        return values_K
    gathered = gather_from_sequence_parallel_region(values_K, group=parallel_state.get_context_parallel_group())
    return gathered.index_select(0, batch.order_T)

"""SmolLM2 (a Llama-style decoder) under our names: weights and tokenizer out of a GGUF file, or weights out of a transformers folder.

Neighbours: `resolve` finds the file and joins the parts, `presets.small` is the shape of the result.
Invariants: conversion only, no download; the same function as transformers' Llama (a parity test compares logits on the real
weights): our decoder's biases of query, key and value, which Llama lacks, are zero, and GGUF's interleaved rotary order is undone;
ids 0..49151 mean what they meant, `<|im_start|>` and `<|im_end|>` under the names of our turn tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from rollout.model.checkpoint import CheckpointError
from rollout.model.tokenizer import (
    AUDIO_END,
    AUDIO_PATCH,
    AUDIO_START,
    BOT,
    CHAT_TEMPLATE,
    END_THINK,
    EOT,
    PAD,
    SPECIAL_TOKENS,
    THINK,
)

RENAMED = {"<|im_start|>": BOT, "<|im_end|>": EOT}  # `<|endoftext|>` is PAD in both
ADDED = (AUDIO_START, AUDIO_PATCH, AUDIO_END, THINK, END_THINK)  # rows after the model's own vocabulary
CONTROL = 3  # GGUF's token type of special tokens

_GGUF_LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GGUF_REST = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}


def open_gguf(path: str | Path) -> Any:
    """A mapped GGUF file of a Llama-style model. Raises CheckpointError for another file."""
    import gguf

    try:
        reader = gguf.GGUFReader(path)
        architecture = reader.fields["general.architecture"].contents()
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise CheckpointError(f"cannot read {path} as a GGUF model: {error!r}; fetch it again") from error
    if architecture != "llama":
        raise CheckpointError(f"{path} holds a {architecture} model; SmolLM2's architecture there is llama")
    return reader


def gguf_weights(reader: Any) -> Iterator[tuple[str, Tensor]]:
    """(Hugging Face name, float32) of every weight, dequantised one at a time. Raises CheckpointError for an unknown name."""
    import gguf

    heads = reader.fields["llama.attention.head_count"].contents()
    kv_heads = reader.fields["llama.attention.head_count_kv"].contents()
    for stored in reader.tensors:
        name = _hugging_face_name(stored.name)
        weight = torch.from_numpy(gguf.dequantize(stored.data, stored.tensor_type).copy()).float()
        if ".q_proj." in name or ".k_proj." in name:
            weight = _halves(weight, heads if ".q_proj." in name else kv_heads)
        yield name, weight


def _hugging_face_name(name: str) -> str:
    if name in _GGUF_REST:
        return _GGUF_REST[name]
    head, _, rest = name.partition(".")
    layer, _, part = rest.partition(".")
    part = part.removesuffix(".weight")
    if head != "blk" or part not in _GGUF_LAYER:
        raise CheckpointError(
            f"the GGUF model has a weight {name}, which a Llama-style decoder with tied embeddings lacks"
        )
    return f"model.layers.{layer}.{_GGUF_LAYER[part]}.weight"


def _halves(weight: Tensor, heads: int) -> Tensor:
    """Rows of a query or key projection from GGUF's order, where partners of a rotation are neighbours, to two halves a head."""
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).reshape(weight.shape)


def as_decoder(weights: Iterable[tuple[str, Tensor]], vocab_size: int) -> dict[str, Tensor]:
    """Our decoder's weights from Llama's (Hugging Face names), float32: zero biases for query, key and value, and rows for the
    added tokens, which start as the mean of all rows. Raises CheckpointError for weights of an untied model."""
    out: dict[str, Tensor] = {}
    for name, tensor in weights:
        weight = tensor.float().contiguous()
        if name == "lm_head.weight":
            raise CheckpointError(
                "the decoder has a head of its own (lm_head.weight); SmolLM2's is tied to its embedding"
            )
        if name == "model.embed_tokens.weight":
            missing = vocab_size - len(weight)
            weight = torch.cat([weight, weight.mean(0, keepdim=True).expand(missing, -1)])
        out[name] = weight
        if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")):
            out[name.removesuffix("weight") + "bias"] = torch.zeros(len(weight))
    return out


def gguf_tokenizer(reader: Any) -> PreTrainedTokenizerFast:
    """The file's byte-level BPE with our names of the turn tokens and the added tokens behind the vocabulary."""
    fields = {name: reader.fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "merges", "token_type")}
    return made_tokenizer(fields["tokens"], fields["merges"], fields["token_type"])


def made_tokenizer(tokens: list[str], merges: list[str], token_type: list[int]) -> PreTrainedTokenizerFast:
    """As `gguf_tokenizer`. Raises CheckpointError when `<|endoftext|>`, `<|im_start|>` or `<|im_end|>` is missing."""
    missing = {PAD, *RENAMED} - set(tokens)
    if missing:
        raise CheckpointError(f"the tokenizer lacks {', '.join(sorted(missing))}; it is not SmolLM2-Instruct's")
    names = [RENAMED.get(token, token) for token in tokens]
    vocabulary: Mapping[str, int] = {token: number for number, token in enumerate(names)}
    pairs = [tuple(merge.split(" ", 1)) for merge in merges]
    core = Tokenizer(models.BPE(vocab=dict(vocabulary), merges=pairs))  # type: ignore[arg-type]
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    control = [
        AddedToken(name, special=True, normalized=False)
        for name, kind in zip(names, token_type, strict=True)
        if kind == CONTROL
    ]
    core.add_special_tokens(control)
    core.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in ADDED[:3]])
    core.add_tokens([AddedToken(name, special=False, normalized=False) for name in ADDED[3:]])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=EOT,
        pad_token=PAD,
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        model_max_length=8192,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer

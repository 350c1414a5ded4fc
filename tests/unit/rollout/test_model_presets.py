"""Presets on the meta device: the public sizes have the public names and shapes."""

import pytest
import torch

from rollout.model.presets import preset_config
from rollout.model.reference import StepAudio2ForCausalLM


def shapes(name):
    with torch.device("meta"):
        model = StepAudio2ForCausalLM(preset_config(name))
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def public_shapes(hidden, layers, heads, kv_heads, intermediate):
    """Names and shapes of the public checkpoints, written out independently of the model code."""
    expected = {
        "encoder.conv1.weight": (1280, 128, 3),
        "encoder.conv1.bias": (1280,),
        "encoder.conv2.weight": (1280, 1280, 3),
        "encoder.conv2.bias": (1280,),
        "encoder.positional_embedding.weight": (1500, 1280),
        "encoder.after_norm.weight": (1280,),
        "encoder.after_norm.bias": (1280,),
        "adapter.conv.weight": (1280, 1280, 3),
        "adapter.conv.bias": (1280,),
        "adapter.linear1.weight": (2048, 1280),
        "adapter.linear1.bias": (2048,),
        "adapter.linear2.weight": (hidden, 2048),
        "adapter.linear2.bias": (hidden,),
        "model.embed_tokens.weight": (158720, hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (158720, hidden),
    }
    for i in range(32):
        block = f"encoder.blocks.{i}"
        for name in ("query", "key", "value", "out"):
            expected[f"{block}.attn.{name}.weight"] = (1280, 1280)
            if name != "key":
                expected[f"{block}.attn.{name}.bias"] = (1280,)
        expected |= {f"{block}.mlp.0.weight": (5120, 1280), f"{block}.mlp.0.bias": (5120,)}
        expected |= {f"{block}.mlp.2.weight": (1280, 5120), f"{block}.mlp.2.bias": (1280,)}
        for norm in ("attn_ln", "mlp_ln"):
            expected |= {f"{block}.{norm}.weight": (1280,), f"{block}.{norm}.bias": (1280,)}
    head = hidden // heads
    for i in range(layers):
        layer = f"model.layers.{i}"
        for name, count in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
            expected[f"{layer}.self_attn.{name}_proj.weight"] = (count * head, hidden)
            expected[f"{layer}.self_attn.{name}_proj.bias"] = (count * head,)
        expected[f"{layer}.self_attn.o_proj.weight"] = (hidden, heads * head)
        expected[f"{layer}.mlp.gate_proj.weight"] = expected[f"{layer}.mlp.up_proj.weight"] = (intermediate, hidden)
        expected[f"{layer}.mlp.down_proj.weight"] = (hidden, intermediate)
        expected[f"{layer}.input_layernorm.weight"] = expected[f"{layer}.post_attention_layernorm.weight"] = (hidden,)
    return expected


def test_mini_has_the_public_names_and_shapes():
    assert shapes("step_audio_2_mini") == public_shapes(3584, 28, 28, 4, 18944)


def test_r1_has_the_public_names_and_shapes():
    assert shapes("step_audio_r1") == public_shapes(5120, 64, 40, 8, 27648)


def test_tiny_decoder_has_one_to_four_million_parameters_and_takes_two_encoder_layers():
    found = shapes("tiny")
    decoder = sum(torch.Size(s).numel() for name, s in found.items() if name.startswith("model."))
    assert 1_000_000 <= decoder <= 4_000_000
    assert found["adapter.conv.weight"] == (256, 768, 3)
    assert found["encoder.feature_mean"] == found["encoder.feature_scale"] == (768,)


def test_small_has_smollm2s_decoder_on_whisper_base():
    found = shapes("small")
    assert found["encoder.blocks.5.mlp.0.weight"] == (2048, 512)
    assert found["model.layers.29.self_attn.k_proj.weight"] == (192, 576)


def test_unknown_preset_names_those_there_are():
    with pytest.raises(KeyError, match="step_audio_2_mini"):
        preset_config("medium")

"""Configuration: public folders load unchanged, ours round-trips, nonsense is refused by name."""

import json

import pytest
from transformers import AutoConfig

from rollout.model.config import StepAudio2Config, StepAudio2EncoderConfig, load_config, register_config
from rollout.model.reference import random_config

PUBLIC_MINI = {
    "architectures": ["StepAudio2ForCausalLM"],
    "model_type": "step_audio_2",
    "eos_token_id": 151665,
    "pad_token_id": 151643,
    "torch_dtype": "bfloat16",
    "text_config": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_attention_heads": 28,
        "num_attention_groups": 4,
        "num_hidden_layers": 28,
        "max_seq_len": 16384,
        "vocab_size": 158720,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
    },
    "audio_encoder_config": {
        "model_type": "step_audio_2_encoder",
        "n_mels": 128,
        "n_audio_ctx": 1500,
        "n_audio_state": 1280,
        "n_audio_head": 20,
        "n_audio_layer": 32,
        "llm_dim": 3584,
        "kernel_size": 3,
        "adapter_stride": 2,
    },
}


def test_public_config_loads_with_our_fields_meaning_what_the_checkpoint_does(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(PUBLIC_MINI))
    config = load_config(tmp_path)
    audio = config.audio_encoder_config
    assert config.text_config.num_key_value_heads == 4
    assert config.text_config.max_position_embeddings == 16384
    assert audio.feature_layers == [-1] and not audio.feature_standardize and audio.mel_trim == 2
    assert audio.feature_dim == audio.conv_channels == 1280


def test_config_survives_a_folder_and_auto_config(tmp_path):
    register_config()
    register_config()
    config = random_config(320, mel_trim=0)
    config.save_pretrained(str(tmp_path))
    loaded = AutoConfig.from_pretrained(str(tmp_path))
    assert isinstance(loaded, StepAudio2Config)
    assert loaded.audio_encoder_config.to_dict() == config.audio_encoder_config.to_dict()
    assert loaded.text_config.hidden_size == config.text_config.hidden_size
    assert loaded.tie_word_embeddings is True


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"feature_layers": [33]}, "feature_layers"),
        ({"feature_layers": [0]}, "feature_layers"),
        ({"feature_layers": []}, "feature_layers"),
        ({"mel_trim": 1}, "mel_trim"),
        ({"n_audio_head": 7}, "n_audio_head"),
    ],
)
def test_values_no_model_can_be_built_from_are_named(fields, named):
    with pytest.raises(ValueError, match=named):
        StepAudio2EncoderConfig(**fields)


def test_decoder_and_adaptor_of_different_width_are_refused():
    with pytest.raises(ValueError, match="llm_dim"):
        StepAudio2Config(text_config={"hidden_size": 128}, audio_encoder_config={"llm_dim": 64})


def test_folder_without_config_is_refused(tmp_path):
    with pytest.raises(OSError, match=r"config\.json"):
        load_config(tmp_path)

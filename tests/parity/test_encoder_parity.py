"""Our log-mel and encoder against transformers' Whisper: random weights always, the real ones where they can be had."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from rollout.model.encoder import AudioEncoder, log_mel
from rollout.model.presets import whisper_tiny_en_config
from rollout.model.resolve import ModelError, whisper_tiny_en
from rollout.model.whisper import encoder_from_transformers


def their_encoder(seed=0):
    torch.manual_seed(seed)
    config = WhisperConfig(
        d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536, num_mel_bins=80
    )
    return WhisperEncoder(config).eval()


def our_encoder(weights, **changes):
    encoder = AudioEncoder(whisper_tiny_en_config(128, feature_standardize=False, **changes))
    encoder.load_state_dict({name.removeprefix("encoder."): tensor for name, tensor in weights.items()})
    return encoder.eval()


@torch.no_grad()
def their_layers(encoder, mel):
    """Block outputs pooled to 25 Hz for a 30 s log-mel [3000, 80], the last one normalised."""
    outputs = []
    hooks = [
        layer.register_forward_hook(lambda _m, _i, out: outputs.append(out[0] if isinstance(out, tuple) else out))
        for layer in encoder.layers
    ]
    encoder(mel.T[None])
    for hook in hooks:
        hook.remove()
    pooled = [F.avg_pool1d(x.transpose(1, 2), 2).transpose(1, 2)[0] for x in outputs]
    return pooled, encoder.layer_norm(pooled[-1])


def sound(seconds, seed=0):
    rng = np.random.default_rng(seed)
    time = np.arange(int(16000 * seconds)) / 16000
    return (0.3 * np.sin(2 * np.pi * (300 + 40 * time) * time) + 0.01 * rng.standard_normal(len(time))).astype(
        np.float32
    )


@pytest.mark.parametrize("n_mels", [80, 128])
def test_log_mel_is_whispers_inside_the_clip(n_mels):
    wave = sound(29.98)
    theirs = WhisperFeatureExtractor(feature_size=n_mels)(wave, sampling_rate=16000).input_features[0].T
    ours = log_mel(wave, n_mels)
    assert ours.shape == (3000, n_mels)
    assert np.abs(ours[:2990].numpy() - theirs[:2990]).max() < 1e-4


@torch.no_grad()
def test_random_encoder_equals_transformers_layer_by_layer():
    theirs = their_encoder()
    weights = encoder_from_transformers(theirs.state_dict())
    mel = log_mel(sound(29.98), 80)
    pooled, last = their_layers(theirs, mel)
    ours = our_encoder(weights, feature_layers=[1, 3, 4, -1], mel_trim=0)(mel)
    for got, expected in zip(ours.split(384, dim=1), [pooled[0], pooled[2], pooled[3], last], strict=True):
        assert torch.allclose(got, expected, atol=2e-5)


@torch.no_grad()
def test_trimmed_positions_are_dropped_as_a_key_mask_drops_them():
    weights = encoder_from_transformers(their_encoder(1).state_dict())
    encoder = our_encoder(weights, feature_layers=[-1], mel_trim=2)
    mel = log_mel(sound(1.3), 80)
    valid = (len(mel) - 2 + 1) // 2
    x = F.gelu(encoder.conv2(F.gelu(encoder.conv1(mel.T[None])))).transpose(1, 2)
    assert x.shape[1] > valid
    x = x + encoder.positional_embedding.weight[: x.shape[1]]
    mask = torch.zeros(x.shape[1])
    mask[valid:] = -torch.inf
    for block in encoder.blocks:
        y = block.attn_ln(x)
        query, key, value = (
            layer(y).unflatten(-1, (6, 64)).transpose(1, 2)
            for layer in (block.attn.query, block.attn.key, block.attn.value)
        )
        scores = (query @ key.transpose(-1, -2) / 8.0 + mask).softmax(-1)
        x = x + block.attn.out((scores @ value).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.mlp_ln(x))
    pooled = x[0, : valid // 2 * 2].reshape(valid // 2, 2, 384).mean(1)
    assert torch.allclose(encoder(mel), encoder.after_norm(pooled), atol=2e-5)


@torch.no_grad()
def test_standardised_features_are_shifted_and_scaled():
    weights = encoder_from_transformers(their_encoder(2).state_dict())
    mel = log_mel(sound(1.0), 80)
    plain = our_encoder(weights)(mel)
    mean, scale = torch.randn(768), torch.rand(768) + 0.5
    standardised = AudioEncoder(whisper_tiny_en_config(128))
    standardised.load_state_dict(
        {name.removeprefix("encoder."): tensor for name, tensor in weights.items()}
        | {"feature_mean": mean, "feature_scale": scale}
    )
    assert torch.allclose(standardised(mel), (plain - mean) * scale, atol=1e-6)


@torch.no_grad()
def test_real_whisper_tiny_en_equals_transformers():
    try:
        weights = whisper_tiny_en()
    except ModelError as error:
        pytest.skip(f"Whisper tiny.en is not to be had here: {error}")
    theirs = their_encoder()
    state = {}
    for name in theirs.state_dict():
        # the same names, asked one by one: where does this parameter end up with us
        (ours,) = set(encoder_from_transformers({name: torch.zeros(1), "conv1.weight": torch.zeros(1)})) - (
            {"encoder.conv1.weight"} if name != "conv1.weight" else set()
        )
        state[name] = weights[ours]
    theirs.load_state_dict(state)
    mel = log_mel(sound(29.98), 80)
    pooled, last = their_layers(theirs, mel)
    ours = our_encoder(weights, mel_trim=0)(mel)
    assert (ours - torch.cat([pooled[0], last], dim=1)).abs().max() < 1e-4
    # Whisper's positions are the sinusoids transformers also draws: an order mix-up would show here
    assert torch.allclose(
        weights["encoder.positional_embedding.weight"], their_encoder().embed_positions.weight, atol=1e-3
    )

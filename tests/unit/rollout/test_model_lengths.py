"""The length formulas against the tensors that come out, for both trim rules."""

import pytest
import torch

from rollout.model.adaptor import Adaptor
from rollout.model.encoder import AudioEncoder, log_mel
from rollout.model.lengths import lengths_from_mel, lengths_from_samples, max_samples, patch_count
from rollout.model.reference import random_config


def front_end(mel_trim):
    torch.manual_seed(0)
    config = random_config(300, encoder_state=16, encoder_layers=1, mel_trim=mel_trim).audio_encoder_config
    return config, AudioEncoder(config).eval(), Adaptor(config).eval()


@pytest.mark.parametrize("mel_trim", [0, 2])
@torch.no_grad()
def test_lengths_are_those_of_the_tensors(mel_trim):
    config, encoder, adaptor = front_end(mel_trim)
    for samples in [1600, 1601, 1759, 1760, 1761, 7999, 16000, 16161, 16321, 16481, 40000, 63999]:
        mel = log_mel(torch.randn(samples), config.n_mels)
        features = encoder(mel)
        lengths = lengths_from_samples(samples, config)
        assert (lengths.mel, lengths.features) == (len(mel), len(features))
        assert features.shape[1] == config.feature_dim
        assert lengths.patches == len(adaptor(features)) == patch_count(len(features), config)


def test_trim_changes_the_patches_of_one_length_in_four():
    trimmed, whole = front_end(2)[0], front_end(0)[0]
    differ = sum(lengths_from_mel(m, trimmed).patches != lengths_from_mel(m, whole).patches for m in range(8, 408))
    assert differ == 100


def test_released_rule_for_a_few_lengths_worked_out_by_hand():
    config = front_end(2)[0]
    # 1 s: 102 frames, 100 count, 50 positions, 25 pooled, 13 patches; 25 s: 2502, 2500, 1250, 625, 313
    assert lengths_from_samples(16000, config).patches == 13
    assert lengths_from_samples(400000, config).patches == 313


@pytest.mark.parametrize("mel_trim", [0, 2])
@torch.no_grad()
def test_longest_clip_fits_and_a_longer_one_is_refused(mel_trim):
    config, encoder, _ = front_end(mel_trim)
    longest = max_samples(config)
    assert longest == 479680
    assert lengths_from_samples(longest, config).positions <= config.n_audio_ctx
    with pytest.raises(ValueError, match="cut or lengthen"):
        encoder(torch.zeros(2 * config.n_audio_ctx + 10, config.n_mels))


@torch.no_grad()
def test_too_short_clip_is_refused():
    config, encoder, _ = front_end(2)
    with pytest.raises(ValueError, match="cut or lengthen"):
        encoder(torch.zeros(4, config.n_mels))


@torch.no_grad()
def test_adaptor_gives_each_clip_of_a_batch_what_it_gives_it_alone():
    config, _, adaptor = front_end(2)
    clips = [torch.randn(length, config.feature_dim) for length in (7, 12, 25, 62, 1)]
    together = adaptor.forward_many(clips)
    alone = torch.cat([adaptor(clip) for clip in clips])
    assert together.shape == alone.shape
    assert torch.allclose(together, alone, atol=1e-5)

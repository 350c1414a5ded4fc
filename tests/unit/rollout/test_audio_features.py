"""Feature cache: computed once, read alike by everybody, never a damaged array."""

import logging

import numpy as np
import pytest
import soundfile
import torch

from rollout import AudioError, AudioRef, FeatureCache, FeatureError, FrozenEncoder
from rollout.audio import sha256_of_file
from rollout.model.config import load_config
from rollout.model.lengths import lengths_from_samples
from rollout.model.reference import StepAudio2ForCausalLM, random_checkpoint


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return random_checkpoint(tmp_path_factory.mktemp("model"), seed=3, encoder_state=32)


@pytest.fixture
def cache(model_dir, tmp_path):
    return FeatureCache.for_model(tmp_path / "features", model_dir)


def clip(folder, seconds=0.7, seed=0, name="clip"):
    wave = 0.1 * np.random.default_rng(seed).standard_normal(round(16000 * seconds))
    path = folder / f"{name}{seed}.wav"
    soundfile.write(path, wave, 16000)
    return AudioRef(str(path), sha256_of_file(path), seconds)


def test_features_are_the_models_own_and_readable_without_an_encoder(cache, model_dir, tmp_path):
    recording = clip(tmp_path)
    (ref,) = cache.ensure([recording])
    stored = FeatureCache(cache.directory).get(ref.key)
    wave, _ = soundfile.read(recording.path, dtype="float32")
    own = StepAudio2ForCausalLM.from_pretrained(model_dir).features(wave).numpy()
    assert stored.dtype == np.float32 and np.array_equal(stored, own)
    assert ref.frames == len(stored)
    assert ref.frames == lengths_from_samples(len(wave), load_config(model_dir).audio_encoder_config).features


def test_second_call_reads_and_does_not_encode(cache, tmp_path, monkeypatch):
    recording = clip(tmp_path)
    first = cache.ensure([recording])
    monkeypatch.setattr(cache.encoder, "encode", lambda _: pytest.fail("encoded again"))
    assert cache.ensure([recording]) == first


def test_long_recordings_become_several_keys_even_when_their_length_is_misstated(cache, tmp_path):
    recording = clip(tmp_path, seconds=51.0)
    refs = cache.ensure([recording])
    assert len(refs) == 3 and len({ref.key for ref in refs}) == 3
    misstated = AudioRef(recording.path, recording.sha256, 10.0)
    assert cache.ensure([misstated]) == refs


def test_key_depends_on_clip_and_encoder_not_on_the_path(cache, tmp_path):
    recording = clip(tmp_path)
    (ref,) = cache.ensure([recording])
    copy = tmp_path / "copy.wav"
    copy.write_bytes((tmp_path / "clip0.wav").read_bytes())
    assert cache.ensure([AudioRef(str(copy), recording.sha256, recording.seconds)]) == [ref]
    assert cache.ensure([clip(tmp_path, seed=1)])[0].key != ref.key
    other = random_checkpoint(tmp_path / "other", seed=4, encoder_state=32)
    assert FeatureCache.for_model(cache.directory, other).ensure([recording])[0].key != ref.key


def test_fingerprint_sees_every_config_field_that_changes_features(model_dir):
    config = load_config(model_dir).audio_encoder_config
    weights = StepAudio2ForCausalLM.from_pretrained(model_dir).state_dict()
    fingerprint = FrozenEncoder(config, weights).fingerprint
    assert fingerprint == FrozenEncoder.from_pretrained(model_dir).fingerprint
    config.mel_trim = 0
    assert FrozenEncoder(config, weights).fingerprint != fingerprint


@pytest.mark.parametrize(
    "damage", [lambda b: b[:100], lambda b: b[:200] + bytes([b[200] ^ 1]) + b[201:], lambda b: b""]
)
def test_damaged_file_is_refused_by_readers_and_computed_again(cache, tmp_path, caplog, damage):
    recording = clip(tmp_path)
    (ref,) = cache.ensure([recording])
    (path,) = cache.directory.rglob("*.npy")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    with pytest.raises(FeatureError, match="damaged"):
        cache.get(ref.key)
    with caplog.at_level(logging.WARNING):
        assert cache.ensure([recording]) == [ref]
    assert "damaged" in caplog.text and path.read_bytes() == whole


def test_unknown_key_missing_encoder_and_bad_clip_are_errors(cache, tmp_path):
    with pytest.raises(FeatureError, match=r"FeatureCache\.ensure"):
        cache.get("00" * 32)
    with pytest.raises(FeatureError, match="for_model"):
        FeatureCache(tmp_path).ensure([clip(tmp_path)])
    with pytest.raises(AudioError, match="gone"):
        cache.ensure([AudioRef("gone.wav", "0", 1.0)])


def test_warming_reports_progress_and_computes_each_clip_once(cache, tmp_path, monkeypatch):
    recordings = [clip(tmp_path, seed=seed) for seed in range(4)]
    calls = []
    encode = cache.encoder.encode
    monkeypatch.setattr(cache.encoder, "encode", lambda wave: calls.append(1) or encode(wave))
    done = []
    found = cache.warm([*recordings, *recordings], on_done=done.append, threads=2)
    assert sum(done) == 4 == len(calls)
    assert found[recordings[2].sha256] == cache.ensure([recordings[2]])
    assert not list(cache.directory.rglob(".*"))


def test_a_clips_features_do_not_depend_on_the_clips_beside_it(model_dir):
    encoder = FrozenEncoder.from_pretrained(model_dir)
    waves = [torch.randn(n).numpy() for n in (8000, 20000, 12345)]
    together = encoder.encode_many(waves)
    assert all(torch.equal(features, encoder.encode(wave)) for features, wave in zip(together, waves, strict=True))

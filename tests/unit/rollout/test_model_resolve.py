"""Where a model comes from: folders, the hub, the shipped base with the pinned encoder."""

import logging

import pytest
import torch
from huggingface_hub import constants

from rollout.model import resolve
from rollout.model.checkpoint import load_weights, save_checkpoint
from rollout.model.config import load_config
from rollout.model.presets import tiny
from rollout.model.reference import SAMPLE_TEXT, StepAudio2ForCausalLM, random_checkpoint
from rollout.model.resolve import ModelError, resolve_model, whisper_tiny_en
from rollout.model.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def whisper():
    try:
        return whisper_tiny_en()
    except ModelError as error:
        pytest.skip(f"Whisper tiny.en is not to be had here: {error}")


def base_folder(folder, **changes):
    torch.manual_seed(0)
    tokenizer = train_tokenizer(SAMPLE_TEXT, 320)
    config = tiny(len(tokenizer), layers=1, **changes)
    weights = {
        name: tensor
        for name, tensor in StepAudio2ForCausalLM(config).state_dict().items()
        if not name.startswith("encoder.") or ".feature_" in name
    }
    return save_checkpoint(folder, config, weights, tokenizer)


def test_complete_folder_is_taken_as_it_is(tmp_path, caplog):
    folder = random_checkpoint(tmp_path / "model")
    with caplog.at_level(logging.INFO):
        assert resolve_model(folder) == str(folder)
    assert "found as a folder" in caplog.text


@pytest.mark.parametrize("missing", ["config.json", "tokenizer_config.json", "model.safetensors"])
def test_incomplete_folder_is_refused_with_what_it_lacks(tmp_path, missing):
    folder = random_checkpoint(tmp_path / "model")
    (folder / missing).unlink()
    with pytest.raises(ModelError, match=missing):
        resolve_model(folder)


def test_missing_folder_and_unknown_preset_say_what_to_give():
    with pytest.raises(ModelError, match="does not exist"):
        resolve_model("./no-such-model")
    with pytest.raises(ModelError, match="step_audio_r1"):
        resolve_model(preset="medium")


def test_a_gguf_file_that_is_none_is_refused_by_the_variable_that_names_it(tmp_path, monkeypatch):
    damaged = tmp_path / "smollm2.gguf"
    damaged.write_bytes(b"GGUF but no more than that")
    monkeypatch.setenv(resolve.SMOLLM2_VARIABLE, str(damaged))
    with pytest.raises(ModelError, match=r"as a GGUF model.*MGRD_SMOLLM2"):
        resolve.smollm2()


def test_hub_that_cannot_be_reached_is_reported_at_once(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ModelError, match="cannot be reached"):
        resolve_model("nobody/no-such-model")


def test_model_in_the_hubs_cache_is_used_only_when_it_is_whole(tmp_path, monkeypatch):
    repo = tmp_path / "models--somebody--some-model"
    folder = random_checkpoint(repo / "snapshots" / "abc")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve_model("somebody/some-model") == str(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="incomplete in the hub's cache, and HF_HUB_OFFLINE is set"):
        resolve_model("somebody/some-model")


def test_base_without_its_files_says_how_to_build_it(tmp_path):
    with pytest.raises(ModelError, match="build-base"):
        resolve.assemble(tmp_path)


def test_base_and_encoder_become_one_folder_made_once(tmp_path, monkeypatch, whisper):
    base = base_folder(tmp_path / "base")
    monkeypatch.setattr(resolve, "whisper_tiny_en", lambda: whisper)
    monkeypatch.setenv("MGRD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(resolve, "BASE_DIR", base)
    folder = resolve_model()
    assert resolve_model() == folder
    made = load_weights(folder)
    assert torch.equal(made["encoder.conv1.weight"], whisper["encoder.conv1.weight"])
    assert torch.equal(made["adapter.conv.weight"], load_weights(base)["adapter.conv.weight"])
    assert StepAudio2ForCausalLM.from_pretrained(folder).features(torch.randn(16000).numpy()).shape == (25, 768)
    assert [path.name for path in (tmp_path / "cache" / "models").iterdir()] == [folder.rsplit("/", 1)[1]]


def test_base_that_does_not_fit_its_config_is_refused(tmp_path, monkeypatch, whisper):
    base = base_folder(tmp_path / "base")
    config = load_config(base)
    weights = load_weights(base)
    del weights["adapter.conv.bias"]
    save_checkpoint(base, config, weights)
    monkeypatch.setattr(resolve, "whisper_tiny_en", lambda: whisper)
    monkeypatch.setenv("MGRD_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ModelError, match=r"adapter\.conv\.bias"):
        resolve.assemble(base)
    assert not list((tmp_path / "cache" / "models").iterdir())


def test_encoder_of_other_content_is_not_used_and_the_next_source_is(tmp_path, monkeypatch, caplog, whisper):
    wheels = resolve.cache_dir() / "wheels"
    monkeypatch.setenv("MGRD_CACHE", str(tmp_path))
    monkeypatch.setattr(resolve, "fetch_from_hub", lambda *_: tmp_path / "hub")
    monkeypatch.setenv(resolve.WHISPER_PATH_VARIABLE, str(tmp_path / "given"))
    changed = {**whisper, "encoder.conv1.bias": whisper["encoder.conv1.bias"] + 1}
    sources = {tmp_path / "hub": changed, str(tmp_path / "given"): whisper}
    monkeypatch.setattr(resolve, "read_whisper_encoder", lambda path: sources.get(path, changed))
    assert torch.equal(whisper_tiny_en()["encoder.conv1.bias"], whisper["encoder.conv1.bias"])
    sources[str(tmp_path / "given")] = changed
    next((tmp_path / "encoders").iterdir()).unlink()
    monkeypatch.setattr(resolve, "wheel_member", lambda *_: wheels)
    with pytest.raises(ModelError, match="other content than pinned"), caplog.at_level(logging.WARNING):
        whisper_tiny_en()
    assert caplog.text.count("not the pinned one") == 3

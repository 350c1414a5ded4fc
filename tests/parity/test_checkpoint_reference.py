"""The reference model against transformers' Qwen2, and folders that come back exactly."""

import pytest
import torch
from transformers import Qwen2ForCausalLM

from rollout.model.checkpoint import CheckpointError, load_weights
from rollout.model.config import load_config
from rollout.model.reference import StepAudio2ForCausalLM, random_checkpoint
from rollout.model.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return random_checkpoint(tmp_path_factory.mktemp("model"), seed=5)


@pytest.mark.parametrize("tied", [True, False])
def test_folder_survives_load_and_save_exactly(tmp_path, tied):
    first = random_checkpoint(tmp_path / "a", seed=1, tie_word_embeddings=tied)
    model = StepAudio2ForCausalLM.from_pretrained(first)
    second = model.save_pretrained(tmp_path / "b", load_tokenizer(first))
    before, after = load_weights(first), load_weights(second)
    assert before.keys() == after.keys()
    assert ("lm_head.weight" in before) is not tied
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert load_config(first).to_dict() == load_config(second).to_dict()
    assert load_tokenizer(first).get_vocab() == load_tokenizer(second).get_vocab()


def test_same_seed_gives_the_same_folder(tmp_path, folder):
    again = load_weights(random_checkpoint(tmp_path / "a", seed=5))
    assert all(torch.equal(tensor, again[name]) for name, tensor in load_weights(folder).items())


@torch.no_grad()
def test_text_logits_are_those_of_transformers_qwen2(folder):
    model = StepAudio2ForCausalLM.from_pretrained(folder)
    weights = load_weights(folder)
    qwen = Qwen2ForCausalLM(load_config(folder).text_config).eval()
    qwen.load_state_dict({n: t for n, t in weights.items() if n.startswith("model.")}, strict=False)
    ids = torch.randint(10, 300, (2, 17))
    assert torch.allclose(model(ids), qwen(ids).logits, atol=1e-5)


@torch.no_grad()
def test_padded_rows_with_audio_score_as_they_do_alone(folder):
    model = StepAudio2ForCausalLM.from_pretrained(folder)
    patch, pad = model.audio_patch_id, 0
    features = [torch.randn(25, 128), torch.randn(10, 128)]
    rows = [[1, 40, 3, *[patch] * 13, 5, 50, 60, 61], [1, 40, 3, *[patch] * 5, 5, 51, 62], [1, 41, 42, 43]]
    width = max(len(row) for row in rows)
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    logits = model(ids, features, mask).log_softmax(-1)
    for row, audio, out in zip(rows, ([features[0]], [features[1]], []), logits, strict=True):
        alone = model.log_probs(row[:3], row[3:], audio)
        batched = out[2 : len(row) - 1].gather(1, torch.tensor(row[3:])[:, None])[:, 0]
        assert torch.allclose(alone, batched, atol=1e-5)
    other = model.log_probs(rows[0][:3], rows[0][3:], [features[0] * 0])
    assert (other[-3:] - model.log_probs(rows[0][:3], rows[0][3:], [features[0]])[-3:]).abs().max() > 1e-2


def test_wrong_number_of_placeholders_is_refused(folder):
    model = StepAudio2ForCausalLM.from_pretrained(folder)
    with pytest.raises(ValueError, match="placeholders"):
        model(torch.tensor([[model.audio_patch_id] * 3]), [torch.randn(25, 128)])
    with pytest.raises(ValueError, match="placeholders"):
        model(torch.tensor([[model.audio_patch_id]]))


def test_model_without_its_encoder_takes_features_only(folder):
    model = StepAudio2ForCausalLM.from_pretrained(folder, with_encoder=False)
    assert not any(name.startswith("encoder.") for name in model.state_dict())
    with pytest.raises(ValueError, match="features"):
        model.features(torch.zeros(16000).numpy())


def test_damaged_and_unfitting_weights_are_refused(tmp_path):
    folder = random_checkpoint(tmp_path / "a")
    with pytest.raises(CheckpointError, match="do not fit"):
        StepAudio2ForCausalLM.from_pretrained(folder, weights={"model.norm.weight": torch.zeros(3)})
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_weights(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match="lacks"):
        load_weights(folder)

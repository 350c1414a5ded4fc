"""A trainer's checkpoint as a Hugging Face folder, as an adapter, and back: equal bits, and damage refused by name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel

from actor import Actor, CheckpointError, export_adapter, export_merged, import_folder
from actor.testing import Case, experiences, make_case, one_rank, optim, ppo, sft_examples, silent, trainer_spec
from rollout import FeatureCache, load_weights
from rollout.model.reference import StepAudio2ForCausalLM

pytestmark = pytest.mark.slow


@dataclass(frozen=True, slots=True)
class Trained:
    """A checkpoint, what the trainer itself exported then, and log-probs it gave."""

    case: Case
    checkpoint: Path
    exported: Path
    batch: list[object]
    log_probs: list[np.ndarray]


def train(folder: Path, case: Case, **changes: object) -> Trained:
    spec = trainer_spec(
        case,
        critic=False,
        ppo=ppo(advantage_estimator="grpo"),
        sft_optim=optim(lr=3e-3),
        micro_batch_tokens=512,
        **changes,
    )
    batch = experiences(case, questions=3, samples=1)
    with one_rank(spec, folder) as trainer:
        for _ in range(2):
            trainer.sft_step(sft_examples(batch))
        trainer.save(str(folder / "saved"))
        trainer.export(str(folder / "exported"))
        return Trained(case, folder / "saved", folder / "exported", list(batch), trainer.log_probs(batch))


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Every weight trained but the adaptor's."""
    folder = tmp_path_factory.mktemp("untied")
    return train(folder, make_case(folder, vocab_size=317, tie_word_embeddings=False), freeze=("adapter.",))


@pytest.fixture(scope="module", params=[(), ("adapter.",)], ids=["with adaptor", "adaptor frozen"])
def low_rank(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("lora")
    case = make_case(folder, vocab_size=317)
    return train(folder, case, freeze=request.param, lora_rank=4, lora_alpha=8.0)


def same_bits(one: Path, other: Path) -> None:
    ours, theirs = load_weights(one), load_weights(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], tensor) and ours[name].dtype == tensor.dtype for name, tensor in theirs.items())


def test_an_exported_checkpoint_is_what_the_trainer_exports(untied: Trained, low_rank: Trained, tmp_path: Path) -> None:
    for number, trained in enumerate((untied, low_rank)):
        out = export_merged(Actor.of(trained.checkpoint), tmp_path / str(number), silent)
        same_bits(out, trained.exported)
        assert {path.name for path in out.iterdir()} == {path.name for path in trained.exported.iterdir()}


def scored(model: torch.nn.Module, reference: StepAudio2ForCausalLM, trained: Trained) -> list[np.ndarray]:
    """Log-probs that `model` (the reference, perhaps with an adapter in it) gives the responses."""
    features = FeatureCache(trained.case.features)
    found = []
    for item in trained.batch:
        clips = [torch.from_numpy(features.get(key)) for key in item.feature_keys]
        with torch.no_grad():
            found.append(reference.log_probs(item.prompt_ids, item.response_ids, clips).numpy())
    return found


def test_base_and_adapter_are_the_merged_model(low_rank: Trained, tmp_path: Path) -> None:
    """PEFT loads the adapter onto the base, trained audio adaptor included; its log-probs are the trainer's and the merged export's."""
    actor = Actor.of(low_rank.checkpoint)
    apart = export_adapter(actor, tmp_path / "adapter", silent)
    assert sorted(path.name for path in apart.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    merged = StepAudio2ForCausalLM.from_pretrained(export_merged(actor, tmp_path / "merged", silent))
    base = StepAudio2ForCausalLM.from_pretrained(low_rank.case.model)
    before = scored(base, base, low_rank)
    together = PeftModel.from_pretrained(base, str(apart)).eval()
    for name, wanted in (("trainer", low_rank.log_probs), ("merged", scored(merged, merged, low_rank))):
        for ours, theirs in zip(scored(together, base, low_rank), wanted, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=name)
    assert max(np.abs(a - b).max() for a, b in zip(before, low_rank.log_probs, strict=True)) > 1e-2


def test_an_adapter_needs_low_rank_updates_and_their_own_base(
    untied: Trained, low_rank: Trained, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"holds no low-rank update: .*--adapter merged"):
        export_adapter(Actor.of(untied.checkpoint), tmp_path / "adapter", silent)
    with pytest.raises(CheckpointError, match=r"model\.layers\.0\..* is not what the checkpoint's low-rank updates"):
        export_adapter(Actor.of(low_rank.checkpoint, str(low_rank.exported)), tmp_path / "adapter", silent)
    assert not list(tmp_path.iterdir())


def test_export_import_export_keeps_every_bit(untied: Trained, tmp_path: Path) -> None:
    """Without the moments of the optimizer: those are not in a Hugging Face folder."""
    imported = import_folder(str(untied.exported), tmp_path / "imported", silent)
    again = export_merged(Actor.of(imported), tmp_path / "again", silent)
    same_bits(again, untied.exported)
    half = export_merged(Actor.of(imported), tmp_path / "half", silent, "bfloat16")
    wanted = load_weights(untied.exported)
    assert all(torch.equal(tensor, wanted[name].bfloat16()) for name, tensor in load_weights(half).items())


def test_a_trainer_starts_from_an_imported_folder(untied: Trained, tmp_path: Path) -> None:
    imported = import_folder(str(untied.exported), tmp_path / "imported", silent)
    spec = trainer_spec(untied.case, critic=False, ppo=ppo(advantage_estimator="grpo"), micro_batch_tokens=512)
    with one_rank(spec, tmp_path) as trainer:
        trainer.load_weights_only(str(imported))
        for ours, theirs in zip(trainer.log_probs(untied.batch), untied.log_probs, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_low_rank_updates_begin_on_whole_weights_and_are_never_left_out(
    untied: Trained, low_rank: Trained, tmp_path: Path
) -> None:
    """A checkpoint's updates are the trainer's, or it is refused: without them it would be another model."""
    settings = {"critic": False, "ppo": ppo(advantage_estimator="grpo"), "micro_batch_tokens": 512}
    with one_rank(trainer_spec(untied.case, lora_rank=4, **settings), tmp_path) as trainer:
        trainer.load_weights_only(str(untied.checkpoint))
        for ours, theirs in zip(trainer.log_probs(untied.batch), untied.log_probs, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
        assert trainer.sft_step(sft_examples(untied.batch)).metrics["grad_norm"] > 0
        with pytest.raises(
            CheckpointError, match=r"no low-rank updates, this trainer has low-rank updates \(rank 4, alpha 32\)"
        ):
            trainer.load(str(untied.checkpoint))
    for changes, told in (({}, "none"), ({"lora_rank": 4, "lora_alpha": 4.0}, r"low-rank updates \(rank 4, alpha 4\)")):
        refused = pytest.raises(
            CheckpointError, match=rf"\(rank 4, alpha 8\), this trainer has {told}: set actor\.lora"
        )
        with one_rank(trainer_spec(low_rank.case, **settings, **changes), tmp_path) as trainer, refused:
            trainer.load_weights_only(str(low_rank.checkpoint))


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "name", "said"),
    [
        (cut, "actor/__0_0.distcp", "actor/__0_0.distcp is torn"),
        (flip, "actor/__0_0.distcp", "actor/__0_0.distcp has changed"),
        (Path.unlink, "actor/.metadata", "actor/.metadata is missing"),
        (Path.unlink, "actor/manifest.json", "actor/manifest.json is missing"),
    ],
)
def test_a_damaged_checkpoint_is_refused_by_name_and_nothing_is_written(
    untied: Trained, tmp_path: Path, damage: Callable[[Path], None], name: str, said: str
) -> None:
    shutil.copytree(untied.checkpoint, tmp_path / "copy")
    damage(tmp_path / "copy" / name)
    with pytest.raises(CheckpointError, match=f"copy/{said}"):
        Actor.of(tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_a_checkpoint_of_another_model_is_refused_by_the_tensor(untied: Trained, tmp_path: Path) -> None:
    other = make_case(tmp_path, vocab_size=317, layers=3, tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match=r"decoder\.layers.* has shape .*the folder given with --base"):
        export_merged(Actor.of(untied.checkpoint, str(other.model)), tmp_path / "out", silent)
    with pytest.raises(CheckpointError, match=r"was trained from is not here: /nowhere; give .* --base"):
        Actor.of(untied.checkpoint, "/nowhere")
    assert not list(tmp_path.glob("*out*"))

"""Hugging Face folder → Megatron → Hugging Face folder, exactly; and what does not fit is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from actor.megatron import weights
from actor.megatron.weights import Layout, WeightsError
from actor.testing import Case, make_case, one_rank, trainer_spec
from rollout import load_config, load_weights

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Case, Any]]:
    folder = tmp_path_factory.mktemp("roundtrip")
    case = make_case(folder, vocab_size=317, tie_word_embeddings=request.param)
    with one_rank(trainer_spec(case), folder) as trainer:
        yield case, trainer


def test_exported_folder_has_equal_bits_and_names(opened: tuple[Case, Any], tmp_path: Path) -> None:
    case, trainer = opened
    trainer.export(str(tmp_path / "out"))
    before, after = load_weights(case.model), load_weights(tmp_path / "out")
    assert sorted(before) == sorted(after)
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)
    assert load_config(tmp_path / "out").to_dict() == load_config(case.model).to_dict()
    names = {path.name for path in Path(case.model).iterdir()}
    assert names <= {path.name for path in (tmp_path / "out").iterdir()}
    assert json.loads((tmp_path / "out" / "tokenizer.json").read_text()) == json.loads(
        (case.model / "tokenizer.json").read_text()
    )


def test_every_rank_part_put_together_is_the_whole_again(opened: tuple[Case, Any]) -> None:
    """Fuse for two ranks, split back: pure moves, for every parameter."""
    _, trainer = opened
    model = trainer.actor.model
    stored = weights.export_tensors(model)
    for mapping in weights.mappings(model):
        tensors = [stored[name] for name in mapping.tensors]
        if mapping.layout is Layout.VOCAB:
            tensors = [weights._pad_rows(tensors[0], 320)]
        groups, head_dim = model.config.num_query_groups, model.config.kv_channels
        parts = [weights._fuse(tensors, mapping.layout, groups, 2, rank) for rank in range(2)]
        back = weights.split(parts, mapping.layout, groups, head_dim)
        assert all(torch.equal(a, b) for a, b in zip(tensors, back, strict=True)), mapping.parameter


def test_missing_and_misshapen_tensors_are_named(opened: tuple[Case, Any]) -> None:
    case, trainer = opened
    stored = load_weights(case.model)
    norm = "model.layers.1.input_layernorm.weight"
    with pytest.raises(WeightsError, match=f"the checkpoint has no {norm}"):
        weights.load_tensors(trainer.actor.model, {name: t for name, t in stored.items() if name != norm})
    with pytest.raises(WeightsError, match=r"model\.layers\.1\.input_layernorm\.weight \(3,\) does not fit"):
        weights.load_tensors(trainer.actor.model, stored | {norm: torch.zeros(3)})


def test_half_of_a_fused_parameter_cannot_be_frozen(opened: tuple[Case, Any]) -> None:
    _, trainer = opened
    with pytest.raises(WeightsError, match="one fused parameter"):
        weights.freeze(trainer.actor.model, ["model.layers.0.self_attn.q_proj."])

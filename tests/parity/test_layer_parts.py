"""Layers whose norms lie inside their linear layers, as Transformer Engine's do, train the same model and share its checkpoints.

Transformer Engine itself needs CUDA (tests/gpu). Tested here is what depends on where parameters lie: loading, export, freezing,
checkpoints from one kind of layer to the other. The layer below has the parameters of Transformer Engine's by name and shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actor import models
from actor.megatron import weights
from actor.megatron.attention import PackedCoreAttention
from actor.megatron.device import ensure_importable
from actor.megatron.norm import RMSNorm
from actor.megatron.parts import TORCH_PARTS, LayerParts
from actor.testing import Case, experiences, make_case, one_rank, sft_examples, trainer_spec

ensure_importable()

from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear  # noqa: E402
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint  # noqa: E402


class NormedColumns(ColumnParallelLinear):
    """RMS norm and column-parallel linear layer in one, with a state that is no tensor."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.layer_norm_weight = torch.nn.Parameter(torch.ones(self.input_size, dtype=self.weight.dtype))

    def forward(self, input_: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        normed = torch.nn.functional.rms_norm(
            input_, input_.shape[-1:], self.layer_norm_weight, self.config.layernorm_epsilon
        )
        return super().forward(normed, *arguments, **named)

    def get_extra_state(self) -> torch.Tensor:
        return torch.tensor([8], dtype=torch.uint8)

    def set_extra_state(self, state: torch.Tensor) -> None:
        assert state.tolist() == [8]

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None) -> Any:
        return make_sharded_tensors_for_checkpoint(
            self.state_dict(prefix="", keep_vars=True),
            prefix,
            {"weight": 0, "bias": 0},
            sharded_offsets,
            tp_group=self.tp_group,
            dp_cp_group=metadata["dp_cp_group"],
        )


FUSED = LayerParts(ColumnParallelLinear, RowParallelLinear, RMSNorm, PackedCoreAttention, NormedColumns)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("parts"))


@pytest.fixture
def trainer(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    @contextmanager
    def opened(parts: LayerParts, **changes: Any) -> Iterator[Any]:
        monkeypatch.setattr(models, "layer_parts", lambda _: parts)
        with one_rank(trainer_spec(case, **changes), tmp_path) as made:
            yield made

    return opened


def trained(made: Any, batch: list[Any]) -> tuple[list[Any], dict[str, torch.Tensor], list[np.ndarray]]:
    reports = [made.sft_step(batch).metrics for _ in range(2)]
    return reports, weights.export_tensors(made.actor.model), made.log_probs(batch)


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_layers_of_both_kinds_train_the_same_model(trainer: Any, case: Case, lora_rank: int) -> None:
    batch = sft_examples(experiences(case, questions=2, samples=2, with_logprobs=False))
    with trainer(TORCH_PARTS, lora_rank=lora_rank) as made:
        plain = trained(made, batch)
        names = {name for name, _ in made.actor.model.named_parameters()}
    with trainer(FUSED, lora_rank=lora_rank) as made:
        fused = trained(made, batch)
        inside = [name for name, _ in made.actor.model.named_parameters() if name.endswith("layer_norm_weight")]
    assert bool(inside) is (lora_rank == 0)
    assert not names.intersection(inside)
    for one, other in zip(plain[0], fused[0], strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    assert plain[1].keys() == fused[1].keys()
    assert all(torch.allclose(tensor, fused[1][name], atol=1e-5) for name, tensor in plain[1].items())
    assert all(np.allclose(one, other, atol=1e-4) for one, other in zip(plain[2], fused[2], strict=True))


@pytest.mark.parametrize(
    ("first", "second"), [(TORCH_PARTS, FUSED), (FUSED, TORCH_PARTS)], ids=["to fused", "from fused"]
)
def test_a_checkpoint_of_one_kind_goes_on_in_the_other(
    trainer: Any, case: Case, tmp_path: Path, first: Any, second: Any
):
    batch = sft_examples(experiences(case, questions=2, samples=2, with_logprobs=False))
    folder = str(tmp_path / "saved")
    with trainer(first) as made:
        made.sft_step(batch)
        made.save(folder)
        kept = weights.export_tensors(made.actor.model)
        expected = made.sft_step(batch).metrics
    with trainer(second) as made:
        made.load(folder)
        loaded = weights.export_tensors(made.actor.model)
        assert all(torch.equal(tensor, loaded[name]) for name, tensor in kept.items())
        assert made.sft_step(batch).metrics == pytest.approx(expected, rel=1e-5)


def test_a_prefix_freezes_norms_wherever_they_lie(trainer: Any) -> None:
    prefixes = ("adapter.", "model.layers.0.input_layernorm.", "model.layers.0.post_attention_layernorm.")
    with trainer(FUSED, freeze=prefixes) as made:
        held = [name for name, p in made.actor.model.language_model.named_parameters() if not p.requires_grad]
    assert sorted(held) == [
        "decoder.layers.0.mlp.linear_fc1.layer_norm_weight",
        "decoder.layers.0.self_attention.linear_qkv.layer_norm_weight",
    ]

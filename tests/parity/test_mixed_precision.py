"""bfloat16 training keeps float32 masters: small updates add up, follow the float32 trainer, survive a checkpoint, and may lie in the
machine's memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from actor.testing import Case, experiences, make_case, one_rank, optim, sft_examples, trainer_spec

UPDATES = 25
LR = 2e-4  # bfloat16's next numbers beside 1.0 are 0.0039 below and 0.0078 above, so one update moves no weight of 1.0


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("mixed"))


@pytest.fixture(scope="module")
def batch(case: Case) -> list[Any]:
    return sft_examples(experiences(case, questions=3, samples=2, with_logprobs=False))


@contextmanager
def trainer(case: Case, folder: Path, dtype: str, **changes: Any) -> Iterator[Any]:
    spec = trainer_spec(case, dtype=dtype, sft_optim=optim(lr=LR, clip_grad=0.0), critic=True, **changes)
    with one_rank(spec, folder) as made:
        yield made


def weights_and_masters(made: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """By parameter: the weight that the model computes with, and what the optimizer steps (flat; one rank holds it whole)."""
    names = {parameter: name for name, parameter in made.actor.model.named_parameters()}
    found = {}
    megatron = made.actor.optimizer.megatron
    for part in getattr(megatron, "chained_optimizers", [megatron]):
        low = (part.model_float16_groups, part.shard_fp32_from_float16_groups)
        full = (part.model_fp32_groups, part.shard_fp32_groups)
        for models, masters in (low, full):
            for of_model, of_master in zip(models, masters, strict=True):
                for weight, master in zip(of_model, of_master, strict=True):
                    found[names[weight]] = (weight.detach().flatten(), master.detach().flatten())
    return found


def norms(made: Any) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = [pair for name, pair in weights_and_masters(made).items() if "layernorm" in name]
    weight, master = (torch.cat([pair[which] for pair in pairs]) for which in (0, 1))
    return weight, master


def test_updates_below_bfloat16s_resolution_add_up_in_float32_masters(case: Case, batch: list[Any], tmp_path: Path):
    with trainer(case, tmp_path, "bfloat16") as made:
        pairs = weights_and_masters(made)
        trained = {name for name, p in made.actor.model.named_parameters() if p.requires_grad}
        assert pairs.keys() == trained
        for weight, master in pairs.values():
            assert (weight.dtype, master.dtype) == (torch.bfloat16, torch.float32)
            assert torch.equal(weight.float(), master)
        # The same gradients into bfloat16 weights without masters: torch's AdamW on a copy of the norms.
        bare = torch.nn.Parameter(norms(made)[0].clone())
        without = torch.optim.AdamW([bare], lr=LR, betas=(0.9, 0.95), weight_decay=0.0)
        made.sft_step(batch)
        weight, master = norms(made)
        moved = (master - 1.0).abs()
        assert torch.equal(weight, torch.ones_like(weight))
        assert moved.max() > LR / 2
        for _ in range(UPDATES - 1):
            before = norms(made)[1].clone()
            made.sft_step(batch)
            weight, master = norms(made)
            bare.grad = (before - master).sign().to(torch.bfloat16)
            without.step()
        assert torch.equal(weight, master.to(torch.bfloat16))
        assert (weight != 1.0).float().mean() > 0.3
        assert torch.equal(bare, torch.ones_like(bare))


def test_bfloat16_follows_the_float32_trainer(case: Case, batch: list[Any], tmp_path: Path):
    """Same start, same batches; bounds are three times and more what was seen (0.003 in the loss, cosine 0.9998)."""
    start: dict[str, torch.Tensor] = {}
    ends: dict[str, dict[str, torch.Tensor]] = {}
    losses: dict[str, list[float]] = {}
    for dtype in ("float32", "bfloat16"):
        with trainer(case, tmp_path, dtype) as made:
            if dtype == "float32":
                start = {name: master.clone() for name, (_, master) in weights_and_masters(made).items()}
            losses[dtype] = [made.sft_step(batch).metrics["loss"] for _ in range(8)]
            ends[dtype] = {name: master.clone() for name, (_, master) in weights_and_masters(made).items()}
    drift = [abs(a - b) / a for a, b in zip(losses["float32"], losses["bfloat16"], strict=True)]
    begin, full, low = (
        torch.cat([group[name] for name in start]) for group in (start, ends["float32"], ends["bfloat16"])
    )
    cosine = torch.nn.functional.cosine_similarity(full - begin, low - begin.bfloat16().float(), dim=0)
    print(f"largest relative difference of the loss {max(drift):.2e}, cosine of the movement {cosine:.4f}")
    assert max(drift) < 1e-2
    assert cosine > 0.999


def test_a_checkpoint_brings_masters_back_to_the_bit(case: Case, batch: list[Any], tmp_path: Path):
    with trainer(case, tmp_path, "bfloat16") as made:
        for _ in range(3):
            made.sft_step(batch)
        made.save(str(tmp_path / "saved"))
        kept = {name: master.clone() for name, (_, master) in weights_and_masters(made).items()}
        report = made.sft_step(batch)
        after = {name: master.clone() for name, (_, master) in weights_and_masters(made).items()}
    with trainer(case, tmp_path, "bfloat16") as made:
        made.load(str(tmp_path / "saved"))
        back = weights_and_masters(made)
        assert all(torch.equal(master, kept[name]) for name, (_, master) in back.items())
        assert any(not torch.equal(master, weight.float()) for weight, master in back.values())
        assert made.sft_step(batch) == report
        assert all(torch.equal(master, after[name]) for name, (_, master) in weights_and_masters(made).items())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_optimizer_in_the_machines_memory_trains_the_same_bits(
    case: Case, batch: list[Any], tmp_path: Path, dtype: str
):
    """PPO's actor and critic too, and a checkpoint goes from one place to the other."""
    rollouts = experiences(case, questions=2, samples=2, with_logprobs=True)
    seen = {}
    for offload in (False, True):
        with trainer(case, tmp_path, dtype, offload_optimizer=offload) as made:
            assert (made.actor.optimizer.masters is not None) is offload
            reports = [made.sft_step(batch).metrics for _ in range(3)]
            made.save(str(tmp_path / f"saved-{offload}"))
            reports.append(made.sft_step(batch).metrics)
            made.reset_optimizer("ppo")
            reports.extend(made.ppo_update(rollouts, seed).metrics for seed in (0, 1))
            seen[offload] = reports, made.actor.model.state_dict()
    assert seen[True][0] == seen[False][0]
    for name, tensor in seen[False][1].items():
        if isinstance(tensor, torch.Tensor):
            assert torch.equal(tensor, seen[True][1][name])
    for offload in (False, True):
        with trainer(case, tmp_path, dtype, offload_optimizer=offload) as made:
            made.load(str(tmp_path / f"saved-{not offload}"))
            assert made.sft_step(batch).metrics == seen[offload][0][3]

"""A trainer on a GPU against plain torch on a CPU in float32: log-probs, updates, checkpoints between kernels, the optimizer's place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actor.messages import Experience
from actor.publishing import payload_tensors
from actor.testing import Case, experiences, make_case, one_rank, optim, sft_examples, trainer_spec
from rollout import FeatureCache, load_weights
from rollout.model.reference import StepAudio2ForCausalLM

UPDATES = 4
LR = 1e-3


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Heads of 64 and widths of whole tiles, which every fused kernel takes."""
    return make_case(tmp_path_factory.mktemp("gpu"), hidden=256, heads=4, kv_heads=2, layers=3, ffn=512)


@pytest.fixture(scope="module")
def batch(case: Case) -> list[Experience]:
    """Log-probs of plain torch on the CPU come with it. Shared prompts, so that calls with a mask are among them."""
    return experiences(case, questions=4, samples=3, prompt_tokens=48, response_tokens=24)


@contextmanager
def trainer(case: Case, folder: Path, **changes: Any) -> Iterator[Any]:
    sft = optim(lr=LR, clip_grad=1.0)
    with one_rank(trainer_spec(case, device="cuda", sft_optim=sft, **changes), folder) as made:
        yield made


def errors(found: list[np.ndarray], batch: list[Experience]) -> np.ndarray:
    return np.concatenate([np.abs(o - np.array(item.rollout_logprobs)) for o, item in zip(found, batch, strict=True)])


def reference_updates(case: Case, batch: list[Experience]) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and weights of plain torch on the CPU, float32, one whole sequence at a time."""
    model = StepAudio2ForCausalLM.from_pretrained(case.model, with_encoder=False)
    cache = FeatureCache(case.features)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith("adapter."))
    trained = [p for p in model.parameters() if p.requires_grad]
    adam = torch.optim.AdamW(trained, lr=LR, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    losses = []
    for _ in range(UPDATES):
        nats, tokens = [], 0
        for item in batch:
            ids = torch.tensor([[*item.prompt_ids, *item.response_ids]])
            features = [torch.from_numpy(cache.get(key)) for key in item.feature_keys]
            logits = model(ids, features)[0, len(item.prompt_ids) - 1 : -1]
            nats.append(torch.nn.functional.cross_entropy(logits, torch.tensor(item.response_ids), reduction="sum"))
            tokens += len(item.response_ids)
        loss = torch.stack(nats).sum() / tokens
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        adam.step()
        losses.append(float(loss))
    return losses, {name: tensor.detach() for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def reference(case: Case, batch: list[Experience]) -> tuple[list[float], dict[str, torch.Tensor]]:
    return reference_updates(case, batch)


def exported(made: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.float() for name, tensor in payload_tensors(made.weights(1)).items()}


def masters(made: Any) -> torch.Tensor:
    """All that the optimizer steps, flat."""
    megatron = made.actor.optimizer.megatron
    parts = getattr(megatron, "chained_optimizers", [megatron])
    return torch.cat(
        [p.detach().flatten().cpu() for part in parts for g in part.optimizer.param_groups for p in g["params"]]
    )


def moments_of(made: Any) -> list[torch.Tensor]:
    megatron = made.actor.optimizer.megatron
    parts = getattr(megatron, "chained_optimizers", [megatron])
    return [tensor for part in parts for state in part.optimizer.state.values() for tensor in state.values()]


def test_float32_log_probs_are_those_of_the_cpu(case: Case, batch: list[Experience], tmp_path: Path) -> None:
    with trainer(case, tmp_path, kernels="torch") as made:
        worst = errors(made.log_probs(batch), batch).max()
    print(f"largest difference {worst:.1e} nats")
    assert worst < 1e-3


def test_engine_log_probs_are_as_near_the_reference_as_torchs(
    case: Case, batch: list[Experience], tmp_path: Path, engine: Any
) -> None:
    """bfloat16, with and without low-rank updates: neither side is the truth, float32 on the CPU is."""
    for lora_rank in (0, 4):
        mean = {}
        for kernels in ("torch", "transformer_engine"):
            with trainer(case, tmp_path, kernels=kernels, dtype="bfloat16", lora_rank=lora_rank) as made:
                assert made.kernels.name == kernels
                found = errors(made.log_probs(batch), batch)
            mean[kernels] = found.mean()
            print(f"{kernels}, lora_rank {lora_rank}: mean {found.mean():.1e}, largest {found.max():.1e} nats")
        assert mean["transformer_engine"] < 1.5 * mean["torch"] + 1e-3
        assert mean["torch"] < 0.05


def test_float32_updates_are_those_of_the_cpu(
    case: Case, batch: list[Experience], reference: Any, tmp_path: Path
) -> None:
    losses, weights = reference
    with trainer(case, tmp_path, kernels="torch") as made:
        found = [made.sft_step(sft_examples(batch)).metrics["loss"] for _ in range(UPDATES)]
        ours = exported(made)
    drift = max(abs(a - b) for a, b in zip(found, losses, strict=True))
    moved = max(float((ours[name] - weights[name]).abs().max()) for name in ours)
    print(f"losses differ by {drift:.1e}, weights by {moved:.1e} (they moved by up to {UPDATES * LR:.0e})")
    assert drift < 1e-3
    assert moved < UPDATES * LR / 4


def test_bfloat16_updates_follow_the_float32_reference(
    case: Case, batch: list[Experience], reference: Any, tmp_path: Path, kernels: str
) -> None:
    losses, weights = reference
    start = {name: tensor.bfloat16().float() for name, tensor in load_weights(case.model).items()}
    with trainer(case, tmp_path, kernels=kernels, dtype="bfloat16") as made:
        found = [made.sft_step(sft_examples(batch)).metrics["loss"] for _ in range(UPDATES)]
        ours = exported(made)
    drift = max(abs(a - b) / b for a, b in zip(found, losses, strict=True))
    names = [name for name in ours if not name.startswith("adapter.") and name in weights]
    theirs, own = (torch.cat([(side[n] - start[n]).flatten() for n in names]) for side in (weights, ours))
    cosine = float(torch.nn.functional.cosine_similarity(theirs, own, dim=0))
    print(f"{kernels}: losses differ by {100 * drift:.2f} %, cosine of the movement {cosine:.3f}")
    assert drift < 0.02
    assert cosine > 0.9


def test_a_checkpoint_goes_from_one_kind_of_kernel_to_the_other(
    case: Case, batch: list[Experience], tmp_path: Path, engine: Any
) -> None:
    examples, folder = sft_examples(batch), tmp_path / "saved"
    for first, second in (("torch", "transformer_engine"), ("transformer_engine", "torch")):
        with trainer(case, tmp_path, kernels=first, dtype="bfloat16") as made:
            made.sft_step(examples)
            made.save(str(folder / first))
            kept, expected = masters(made), made.sft_step(examples).metrics["loss"]
        with trainer(case, tmp_path, kernels=second, dtype="bfloat16") as made:
            made.load(str(folder / first))
            assert torch.equal(masters(made).sort().values, kept.sort().values)
            assert made.sft_step(examples).metrics["loss"] == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_offloaded_optimizer_frees_the_gpu_and_trains_alike(
    case: Case, batch: list[Experience], tmp_path: Path, dtype: str
) -> None:
    examples = sft_examples(batch)
    losses, held = {}, {}
    for offload in (False, True):
        with trainer(case, tmp_path, kernels="torch", dtype=dtype, offload_optimizer=offload) as made:
            losses[offload] = [made.sft_step(examples).metrics["loss"] for _ in range(3)]
            torch.cuda.synchronize()
            held[offload] = torch.cuda.memory_allocated()
            moments = moments_of(made)
            assert all(tensor.is_cuda is not offload for tensor in moments)
            numbers = sum(tensor.numel() for tensor in moments) // 2
            made.save(str(tmp_path / f"saved-{offload}"))
            made.load(str(tmp_path / f"saved-{offload}"))
            if offload:
                assert all(tensor.is_pinned() for tensor in moments_of(made))
            losses[offload].append(made.sft_step(examples).metrics["loss"])
    assert losses[True] == pytest.approx(losses[False], rel=1e-3)
    freed = (12 if dtype == "bfloat16" else 8) * numbers
    print(f"{dtype}: {(held[False] - held[True]) / 2**20:.1f} MiB freed, {freed / 2**20:.1f} MiB by the plan")
    assert held[False] - held[True] == pytest.approx(freed, rel=0.1)

"""The plan's figures beside bytes of a real trainer, of a real forward pass and of vLLM's own cache specification: within 3 %."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from actor import Layout, losses
from actor.megatron.batch import MicroBatch
from actor.testing import experiences, make_case, one_rank, sft_examples, trainer_spec
from orchestrator.plan.activations import Rows, head_bytes, layers_bytes, once_bytes
from orchestrator.plan.engines import kv_bytes_per_token
from orchestrator.plan.sizes import ModelSizes, sizes_of
from orchestrator.plan.training import Training, model_memory, stage_counts
from rollout import load_config

LAYERS = 3
WITHIN = 0.03  # of the measured bytes


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    sizes = {"hidden": 128, "layers": LAYERS, "heads": 4, "kv_heads": 2, "ffn": 320}
    made = make_case(folder, vocab_size=512, **sizes)
    return made, experiences(made, questions=4, samples=2, prompt_tokens=60, response_tokens=30, with_logprobs=False)


@pytest.fixture(scope="module")
def sizes(case) -> ModelSizes:
    return sizes_of(load_config(case[0].model))


def rows_of(batch: MicroBatch) -> Rows:
    """The calls that the plan's formulas are told of are those of this very batch."""
    shapes = [call.shape for call in batch.attention.calls]
    return Rows(
        rows=batch.input_ids_N.numel(),
        query_rows=sum(b * q for b, q, _ in shapes),
        key_rows=sum(b * k for b, _, k in shapes),
        mask_entries=sum(
            b * q * k
            for call, (b, q, k) in zip(batch.attention.calls, shapes, strict=True)
            if call.bias_B1QK is not None
        ),
        head_rows=len(batch.targets_T),
    )


def tensors_of(batch: MicroBatch) -> list[torch.Tensor]:
    plan = batch.attention
    calls = [t for call in plan.calls for t in (call.query_rows, call.key_rows, call.bias_B1QK) if t is not None]
    return [batch.input_ids_N, batch.targets_T, batch.head_rows_K, plan.cos_N1D, plan.sin_N1D, plan.inverse_N, *calls]


def close(planned: int, measured: int) -> None:
    assert abs(planned - measured) <= WITHIN * measured, f"planned {planned}, measured {measured}"


def held_bytes(tensors) -> int:
    """Bytes of distinct storages."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("freeze", "lora_rank"), [(("adapter.",), 0), ((), 0), (("model.layers.", "model.norm."), 0), (("adapter.",), 8)]
)
def test_weights_gradients_and_optimizer_are_those_of_a_real_trainer(case, sizes, tmp_path, dtype, freeze, lora_rank):
    spec = trainer_spec(case[0], dtype=dtype, freeze=freeze, lora_rank=lora_rank)
    training = Training(dtype=dtype, tokens=256, freeze=freeze, lora_rank=lora_rank)
    with one_rank(spec, tmp_path) as trainer:
        trainer.reset_optimizer("ppo")
        for learner, critic in ((trainer.actor, False), (trainer.critic, True)):
            counts = stage_counts(sizes, Layout(), 0, training, critic=critic, second=critic)
            planned = model_memory(counts, Layout(), training)
            parameters = list(learner.model.parameters())
            assert counts.trained == sum(p.numel() for p in parameters if p.requires_grad)
            assert counts.all == sum(p.numel() for p in parameters)
            close(planned.weights, held_bytes(parameters))
            close(planned.gradients, held_bytes([buffer.grad_data for buffer in learner.ddp.buffers]))
            optimizer = learner.optimizer.megatron
            state: list[torch.Tensor] = []
            held = {p.untyped_storage().data_ptr() for p in parameters}
            for part in getattr(optimizer, "chained_optimizers", [optimizer]):
                state += [t for values in part.optimizer.state.values() for t in values.values() if torch.is_tensor(t)]
                state += [p for group in part.optimizer.param_groups for p in group["params"]]
            state = [
                t for t in state if t.untyped_storage().data_ptr() not in held
            ]  # in float32 masters are the weights
            close(planned.optimizer, held_bytes(state))


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("chunk", "lora_rank"), [((1024, 16384), 0), ((16, 64), 0), ((16, 64), 8)])
def test_activations_are_what_autograd_keeps_of_a_real_forward_pass(
    case, sizes, tmp_path, recompute, dtype, chunk, lora_rank
):
    made, batch = case
    spec = trainer_spec(
        made,
        dtype=dtype,
        micro_batch_tokens=4096,
        recompute=recompute,
        head_chunk_rows=chunk[0],
        head_chunk_vocab=chunk[1],
        lora_rank=lora_rank,
    )
    with one_rank(spec, tmp_path) as trainer:
        (micro,) = trainer._whole(sft_examples(batch)).batches
        model = trainer.actor.model
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        kept: dict[int, torch.Tensor] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage().data_ptr()
            if storage not in weights:
                kept[storage] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = losses.sft_loss(model(micro).logprobs_T).sum()
        measured = held_bytes(
            [*kept.values(), *tensors_of(micro)]
        )  # the batch itself lives as long as its backward pass
        assert loss.requires_grad
    training = Training(dtype=dtype, tokens=4096, recompute=recompute, chunk=chunk, lora_rank=lora_rank)
    rows, method = rows_of(micro), training.method(Layout())
    planned = (
        layers_bytes(sizes, rows, method, LAYERS, first=True, last=True)
        + once_bytes(sizes, rows, method)
        + head_bytes(sizes, rows, method, chunk, critic=False)
    )
    close(planned, measured)


@pytest.mark.parametrize("tensor_parallel", [1, 2, 4])
def test_a_token_takes_as_many_bytes_of_cache_as_vllm_says(sizes, tensor_parallel):
    interface = pytest.importorskip("vllm.v1.kv_cache_interface")
    block = 16
    spec = interface.FullAttentionSpec(
        block_size=block,
        num_kv_heads=max(1, sizes.kv_heads // tensor_parallel),
        head_size=sizes.head_dim,
        dtype=torch.bfloat16,
    )
    assert kv_bytes_per_token(sizes, tensor_parallel, 2) * block == LAYERS * spec.page_size_bytes


def test_measuring_notices_a_figure_that_is_off(case, sizes):
    with pytest.raises(AssertionError, match="planned"):
        close(111, 100)
    assert Path(case[0].model).is_dir()

"""Operations of an update, against products counted one by one and against 6 N a token."""

from __future__ import annotations

import pytest

from orchestrator.plan.flops import Work, forward_flops, update_flops
from orchestrator.plan.sizes import ModelSizes, sizes_of
from rollout import preset_config

SMALL = ModelSizes(
    hidden=8, ffn=16, layers=2, heads=4, kv_heads=2, head_dim=3, vocab=10, tied=True, adaptor=0, encoder=0
)


def test_shared_prompts_take_their_rows_once_and_pairs_are_those_of_causal_order() -> None:
    alone = Work.of(questions=1, samples=1, prompt=3, response=3)
    # Rows 0..4 (the last response token has none) see 1, 2, 3, 4, 5 keys.
    assert alone == Work(rows=5, pairs=15, responses=3)
    assert Work.of(questions=2, samples=2, prompt=3, response=3) == Work(rows=14, pairs=2 * (6 + 9 + 9), responses=12)


def test_every_product_of_a_forward_pass_is_counted() -> None:
    work = Work(rows=5, pairs=15, responses=3)
    projections = 2 * 5 * 8 * (12 + 6 + 6) + 2 * 5 * 12 * 8
    mlp = 3 * 2 * 5 * 8 * 16
    attention = 2 * 15 * (2 * 3 * 4)
    assert forward_flops(SMALL, work, critic=False) == 2 * (projections + mlp + attention) + 2 * 3 * 8 * 10
    assert forward_flops(SMALL, work, critic=True) == 2 * (projections + mlp + attention) + 2 * 3 * 8


def test_an_update_takes_about_six_operations_a_parameter_and_token_and_four_with_lora() -> None:
    sizes = sizes_of(preset_config("step_audio_2_mini"))
    work = Work.of(questions=1, samples=1, prompt=1, response=1000)
    matrices = sizes.decoder - sizes.vocab * sizes.hidden  # the embedding is looked up, not multiplied
    assert update_flops(sizes, work) == pytest.approx(6 * matrices * 1000, rel=0.02)
    assert update_flops(sizes, work, lora=True) == pytest.approx(4 * matrices * 1000, rel=0.03)

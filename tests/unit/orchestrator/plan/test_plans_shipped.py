"""Plans: counts are exact, the shipped ones fit and fill their cluster, what cannot fit is refused with a change that helps."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from actor import STEP_SLICE_NUMBERS, Layout
from orchestrator.cli import app
from orchestrator.config.compose import compose_config
from orchestrator.errors import ConfigError, PreflightError
from orchestrator.plan.advice import advise
from orchestrator.plan.assess import assess, plan_of
from orchestrator.plan.memory import GIB
from orchestrator.plan.sizes import model_sizes, sizes_of
from orchestrator.plan.training import Counts, Training, model_memory, rank_memory, stage_counts, step_bytes
from orchestrator.preflight import check_kernels, check_plan
from rollout import preset_config, trainable_parameters

MODELS = ("small", "step_audio_2_mini", "step_audio_r1")
CLUSTERS = {"gpus_1x8": 8, "gpus_4x8": 32, "gpus_16x8": 128}


@pytest.mark.parametrize("name", ["tiny", *MODELS])
def test_parameters_are_counted_exactly(name):
    config = preset_config(name)
    sizes = sizes_of(config)
    assert sizes.trainable == trainable_parameters(config)


@pytest.mark.parametrize("name", ["tiny", *MODELS])
def test_the_encoder_is_counted_exactly(name):
    import torch

    from rollout.model.encoder import AudioEncoder

    config = preset_config(name)
    with torch.device("meta"):
        encoder = AudioEncoder(config.audio_encoder_config)
    assert sizes_of(config).encoder == sum(p.numel() for p in encoder.parameters())


@pytest.mark.parametrize("layout", [Layout(), Layout(tensor=2), Layout(pipeline=4), Layout(4, 2, 2, 2, True)])
@pytest.mark.parametrize("critic", [False, True])
def test_the_ranks_of_a_layout_hold_the_whole_model_between_them(layout, critic):
    """Split parts add up; norms, biases' owners and the adaptor are whole on every tensor-parallel rank."""
    sizes = sizes_of(preset_config("step_audio_2_mini"))
    training = Training("bfloat16", 1024)
    t = layout.tensor
    stages = [stage_counts(sizes, layout, s, training, critic=critic).all for s in range(layout.pipeline)]
    whole = sizes.trainable - (sizes.vocab * sizes.hidden - sizes.hidden if critic else 0)
    repeated = sizes.adaptor + (2 * sizes.layers + 1) * sizes.hidden + (sizes.hidden if critic else 0)
    assert t * sum(stages) == whole + (t - 1) * repeated


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("cluster", CLUSTERS)
def test_every_shipped_plan_fits_and_fills_its_cluster(model, cluster):
    config = compose_config([f"model={model}", f"cluster={cluster}"])
    found = plan_of(config)
    assert found.problems == ()
    assert found.gpus == found.available == CLUSTERS[cluster]
    assert sum(kind.count for kind in found.kinds) == CLUSTERS[cluster]
    assert found.worst.memory.total <= found.limit <= 80 * GIB
    assert found.sequences >= 8
    if model != "small":
        assert config.actor.micro_batch_tokens == config.model.max_model_len == 10240


def test_32_b_with_critic_and_all_weights_does_not_fit_8_gpus_and_lora_is_the_way():
    config = compose_config(["model=step_audio_r1", "cluster=gpus_1x8", "actor.lora.rank=0"])
    sizes = model_sizes(config)
    found = assess(config, sizes)
    assert not found.fits
    assert "a GPU has 79.0 GiB" in found.problems[0]
    advice = advise(config, sizes)
    assert advice is not None
    assert advice.overrides == ("actor.lora.rank=16",)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["actor.tensor_parallel=8", "actor.world_size=8", "rollout.workers=0"], "rollout.workers"),
        (["actor.world_size=3", "actor.tensor_parallel=3"], "does not divide the model's 28 attention heads"),
        (
            [
                "actor.world_size=3",
                "actor.tensor_parallel=1",
                "actor.sequence_parallel=false",
                "actor.pipeline_parallel=3",
            ],
            "28 layers",
        ),
        (["rollout.workers=5"], "takes 9 GPUs"),
        (["rollout.gpu_memory_utilization=0.2"], "its share of the GPU"),
        (["rollout.gpu_memory_utilization=0.99"], "for CUDA itself"),
        (["actor.recompute=none", "actor.sequence_parallel=false"], "needs"),
    ],
)
def test_what_cannot_be_is_refused_with_the_figure(overrides, words):
    try:
        config = compose_config(["model=step_audio_2_mini", "cluster=gpus_1x8", *overrides])
    except ConfigError as refusal:
        assert words in str(refusal)
        return
    with pytest.raises(PreflightError) as refused:
        check_plan(config)
    assert words in str(refused.value)


def test_32_b_trains_all_weights_on_32_gpus_since_a_step_goes_by_slices():
    config = compose_config(["model=step_audio_r1", "cluster=gpus_4x8"])
    assert config.actor.lora.rank == 0
    trainers = [kind.memory for kind in plan_of(config).kinds if kind.name != "engine"]
    assert 70 < max(memory.total for memory in trainers) / GIB < 76
    # All denominators of a step at once, 4 bytes a trained parameter, would not have fitted.
    whole_shard = max(memory.optimizer // 2 // 12 * 4 - memory.working - memory.activations for memory in trainers)
    assert whole_shard > 3 * GIB


def test_an_offloaded_optimizer_lets_32_b_be_split_half_as_far():
    halves = ["model=step_audio_r1", "cluster=gpus_4x8", "actor.pipeline_parallel=1"]
    assert not plan_of(compose_config(halves)).fits
    found = plan_of(compose_config([*halves, "actor.offload_optimizer=true"]))
    assert found.fits
    # Actor and critic, 12 bytes a trained parameter, whichever way they are split.
    host = sum(kind.count * kind.memory.host for kind in found.kinds)
    assert host / 24 == pytest.approx(model_sizes(compose_config(halves)).trainable, rel=0.03)


def test_kernels_that_cannot_run_are_refused_before_a_run_starts():
    with pytest.raises(PreflightError, match=r"actor\.kernels=transformer_engine: .*device=cpu"):
        check_kernels(compose_config(["actor.kernels=transformer_engine"]))
    with pytest.raises(ConfigError, match=r"actor\.kernels = 'cuda': must be one of auto, transformer_engine, torch"):
        compose_config(["actor.kernels=cuda"])
    check_kernels(compose_config([]))


def test_a_suggestion_fits_when_it_is_followed():
    start = ["model=step_audio_2_mini", "cluster=gpus_1x8", "actor.recompute=none", "actor.sequence_parallel=false"]
    config = compose_config(start)
    advice = advise(config, model_sizes(config))
    assert advice is not None
    assert plan_of(compose_config([*start, *advice.overrides])).fits


def test_a_cluster_of_gpus_without_a_plan_for_the_model_is_refused():
    with pytest.raises(ConfigError, match=r"cluster\.nodes = 1: .*actor\.device=cuda"):
        compose_config(["model=tiny", "cluster=gpus_1x8"])


@given(
    tensor=st.sampled_from([1, 2, 4]),
    pipeline=st.sampled_from([1, 2, 4]),
    data=st.integers(1, 8),
    recompute=st.sampled_from(["none", "selective", "full"]),
)
@settings(max_examples=60, deadline=None)
def test_more_ranks_and_more_recompute_never_need_more(tensor, pipeline, data, recompute):
    sizes = sizes_of(preset_config("step_audio_2_mini"))

    def needs(t: int, p: int, d: int, again: str) -> int:
        layout = Layout(t, p, 1, d, t > 1)
        training = Training("bfloat16", 10240, recompute=again, freeze=("adapter.",))
        return max(rank_memory(sizes, training, (layout, s), (layout, s), 0).total for s in range(p))

    here = needs(tensor, pipeline, data, recompute)
    assert needs(2 * tensor if tensor < 4 else tensor, pipeline, data, recompute) <= here
    assert needs(tensor, pipeline, data + 1, recompute) <= here
    assert needs(tensor, pipeline, data, "full") <= needs(tensor, pipeline, data, "selective")
    assert needs(tensor, pipeline, data, "selective") <= needs(tensor, pipeline, data, "none")


def test_an_offloaded_optimizer_moves_to_the_host():
    sizes = sizes_of(preset_config("step_audio_2_mini"))
    layout = Layout(tensor=4, sequence=True)
    counts = stage_counts(sizes, layout, 0, Training("bfloat16", 1024))
    here = model_memory(counts, layout, Training("bfloat16", 1024))
    there = model_memory(counts, layout, Training("bfloat16", 1024, offload_optimizer=True))
    assert (there.optimizer, there.host) == (0, here.optimizer)
    assert there.total == here.total - here.optimizer


def test_a_step_needs_a_slice_and_an_offloaded_one_also_its_masters_or_what_loading_puts_there():
    layout, many = Layout(data=2), Counts(trained=2 << 30)
    shard, piece = 1 << 30, STEP_SLICE_NUMBERS
    assert step_bytes(many, layout, Training("bfloat16", 1024)) == 4 * piece
    assert step_bytes(Counts(trained=2000), layout, Training("bfloat16", 1024)) == 4 * 1000
    away = {dtype: Training(dtype, 1024, offload_optimizer=True) for dtype in ("float32", "bfloat16")}
    assert step_bytes(many, layout, away["bfloat16"]) == 4 * shard + 12 * piece
    assert step_bytes(Counts(trained=2000), layout, away["bfloat16"]) == 16 * 1000
    assert step_bytes(many, layout, away["float32"]) == 8 * shard


def test_the_command_prints_json_and_exits_2_when_it_cannot_fit():
    runner = CliRunner()
    good = runner.invoke(app, ["plan", "--json", "model=step_audio_2_mini", "cluster=gpus_4x8"])
    assert good.exit_code == 0
    assert json.loads(good.stdout)["fits"] is True
    bad = runner.invoke(app, ["plan", "model=step_audio_r1", "cluster=gpus_1x8", "actor.lora.rank=0"])
    assert bad.exit_code == 2
    assert "try: actor.lora.rank=16" in bad.stderr

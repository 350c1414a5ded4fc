"""Tensor parallel 2 and data parallel 2 on gloo against one rank: same log-probs, losses, gradient norms and weights; and a
checkpoint written by one layout goes on in another.

Two processes are spawned once and run both layouts; the one-rank side runs here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from actor.messages import Experience
from actor.testing import Case, experiences, make_case, one_rank, optim, ppo, sft_examples, trainer_spec
from actor.trainer import Trainer

pytestmark = pytest.mark.slow

LAYOUTS = {"tp2": 2, "dp2": 1}
RTOL_UPDATES = 2e-3  # of the largest change of a weight: Adam divides tiny gradients by their own size


def spec_for(case: Case, world_size: int = 1, tensor_parallel: int = 1) -> Any:
    settings = ppo(entropy_coef=0.01, minibatches=2)
    return trainer_spec(
        case, world_size=world_size, tensor_parallel=tensor_parallel, ppo=settings, actor_optim=optim(eps=1e-6)
    )


def scenario(trainer: Trainer, batch: list[Experience]) -> dict[str, Any]:
    """Every call of a run, in order; tensors and numbers to compare."""
    from actor.publish import payload_tensors

    out: dict[str, Any] = {"log_probs": trainer.log_probs(batch)}
    out["sft"] = trainer.sft_step(sft_examples(batch)).metrics
    out["lonely"] = trainer.sft_step(sft_examples(batch[:1])).metrics  # less than one sequence a rank
    trainer.reset_optimizer("ppo")
    out["values"] = trainer.values(batch)
    out["updates"] = [trainer.ppo_update(batch, seed).metrics for seed in range(2)]
    update = trainer.weights(1)
    out["weights"] = payload_tensors(update) if update is not None else {}
    return out


def after_checkpoint(trainer: Trainer, batch: list[Experience]) -> dict[str, Any]:
    from actor.publish import payload_tensors

    metrics = trainer.ppo_update(batch, 5).metrics
    update = trainer.weights(2)
    return {"metrics": metrics, "weights": payload_tensors(update) if update is not None else {}}


def rank_main(rank: int, folder: str, case: Case, batch: list[Experience]) -> None:
    from actor.megatron.parallel import world

    torch.set_num_threads(1)
    for name, tensor_parallel in LAYOUTS.items():
        spec = spec_for(case, 2, tensor_parallel)
        with world(spec, rank, f"file://{folder}/meet_{name}") as joined:
            trainer = Trainer(spec, joined)
            result = scenario(trainer, batch)
            trainer.save(f"{folder}/checkpoint_{name}")
            result["after"] = after_checkpoint(trainer, batch)
            if rank == 0:
                torch.save(result, f"{folder}/{name}.pt")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each layout computed, by name; "one" is one rank, "one_from_tp2" went on from the checkpoint of tp2."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("layouts")
    case = make_case(folder, vocab_size=317)
    # 7 prompts over 2 ranks and 2 minibatches: shares of unequal size, several micro-batches a rank.
    batch = experiences(case, questions=7, samples=3)
    context = torch.multiprocessing.get_context("spawn")
    ranks = [context.Process(target=rank_main, args=(rank, str(folder), case, batch)) for rank in range(2)]
    for process in ranks:
        process.start()
    found: dict[str, Any] = {}
    with one_rank(spec_for(case), folder) as trainer:
        found["one"] = scenario(trainer, batch)
    for process in ranks:
        process.join(timeout=500)
        if process.exitcode != 0:
            for other in ranks:
                other.kill()
            pytest.fail(f"a rank ended with {process.exitcode}")
    for name in LAYOUTS:
        found[name] = torch.load(folder / f"{name}.pt", weights_only=False)
        with one_rank(spec_for(case), folder) as trainer:
            trainer.load(str(folder / f"checkpoint_{name}"))
            found[f"one_from_{name}"] = after_checkpoint(trainer, batch)
    found["batch"] = batch
    found["start"] = case.model
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_log_probs_and_values_agree(results: dict[str, Any], layout: str) -> None:
    for name in ("log_probs", "values"):
        for ours, one in zip(results[layout][name], results["one"][name], strict=True):
            np.testing.assert_allclose(ours, one, atol=1e-5)
    for ours, item in zip(results[layout]["log_probs"], results["batch"], strict=True):
        np.testing.assert_allclose(ours, item.rollout_logprobs, atol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_losses_and_gradient_norms_agree(results: dict[str, Any], layout: str) -> None:
    pairs = [(results[layout][name], results["one"][name]) for name in ("sft", "lonely")]
    pairs += zip(results[layout]["updates"], results["one"]["updates"], strict=True)
    for ours, one in pairs:
        assert ours.keys() == one.keys()
        for name, value in one.items():
            assert ours[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_after_the_updates_agree(results: dict[str, Any], layout: str) -> None:
    from rollout import load_weights

    start, one, ours = load_weights(results["start"]), results["one"]["weights"], results[layout]["weights"]
    assert ours.keys() == one.keys()
    moved = max(float((one[name] - start[name]).abs().max()) for name in one)
    apart = max(float((ours[name] - one[name]).abs().max()) for name in one)
    assert moved > 1e-3
    assert apart <= max(1e-6, RTOL_UPDATES * moved), (apart, moved)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_checkpoint_goes_on_in_another_layout(results: dict[str, Any], layout: str) -> None:
    """Parameters, moments and schedule arrive: the next update is the one that the writing layout made."""
    ours, theirs = results[f"one_from_{layout}"], results[layout]["after"]
    for name, value in theirs["metrics"].items():
        assert ours["metrics"][name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
    for name, tensor in theirs["weights"].items():
        torch.testing.assert_close(ours["weights"][name], tensor, atol=1e-5, rtol=0, msg=name)

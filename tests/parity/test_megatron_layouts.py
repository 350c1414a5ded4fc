"""Every layout of two and four ranks (gloo) trains the model that one rank trains: log-probs, values, losses, gradient norms and
weights after three updates of SFT, PPO (actor, critic, KL reference) and DPO, audio and text mixed; and a checkpoint of one layout
goes on in another.

Four processes are spawned once and run all layouts of `layout_worlds`; the one-rank side runs here.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actor import Actor, export_merged, import_folder
from actor.layout import Layout
from actor.testing import Case, experiences, make_case, one_rank, silent
from rollout import load_weights

sys.path.insert(0, str(Path(__file__).parent))  # spawned processes import it by this name

import layout_worlds
from layout_worlds import ALL, World

pytestmark = pytest.mark.slow

RESUMED = [name for name, world in ALL.items() if world.after]
ATOL_LOG_PROBS = 1e-5
ATOL_WEIGHTS = 5e-5  # after nine updates that moved weights by up to 9e-3


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each layout computed, by name; "tied" and "untied": what one rank did with that model."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("layouts")
    cases: dict[str, Case] = {
        name: make_case(folder / name, vocab_size=317, layers=4, tie_word_embeddings=name != "untied")
        for name in ("tied", "untied", "lora")
    }
    for name, case in cases.items():
        import_folder(str(case.model), layout_worlds.imported_of(folder, name), silent)
    # 5 prompts of 4 samples: unequal shares, several micro-batches a rank, prompts with and without audio.
    batches = {name: experiences(case, questions=5, samples=4) for name, case in cases.items()}
    context = torch.multiprocessing.get_context("spawn")
    ranks = [
        context.Process(target=layout_worlds.rank_main, args=(rank, str(folder), cases, batches)) for rank in range(4)
    ]
    for process in ranks:
        process.start()
    found: dict[str, Any] = {"batches": batches, "cases": cases, "folder": folder}
    for name, case in cases.items():
        spec = layout_worlds.spec_of(World(Layout(), name), cases)
        with one_rank(spec, folder) as trainer:
            found[name] = layout_worlds.train(trainer, batches[name], folder / f"one {case.model.parent.name}")
    for process in ranks:
        process.join(timeout=500)
        if process.exitcode != 0:
            for other in ranks:
                other.kill()
            pytest.fail(f"a rank ended with {process.exitcode}")
    for name in ALL:
        found[name] = torch.load(folder / f"{name}.pt", weights_only=False)
    return found


def of_one_rank(results: dict[str, Any], layout: str) -> dict[str, Any]:
    return results[ALL[layout].model]


@pytest.mark.parametrize("layout", ALL)
def test_log_probs_and_values_agree(results: dict[str, Any], layout: str) -> None:
    one = of_one_rank(results, layout)
    for name in ("log_probs", "values"):
        for ours, theirs in zip(results[layout][name], one[name], strict=True):
            np.testing.assert_allclose(ours, theirs, atol=ATOL_LOG_PROBS)
    for ours, item in zip(results[layout]["log_probs"], results["batches"][ALL[layout].model], strict=True):
        np.testing.assert_allclose(ours, item.rollout_logprobs, atol=1e-4)


@pytest.mark.parametrize("layout", ALL)
def test_losses_and_gradient_norms_agree(results: dict[str, Any], layout: str) -> None:
    for ours, one in zip(results[layout]["reports"], of_one_rank(results, layout)["reports"], strict=True):
        assert ours == pytest.approx(one, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("layout", ALL)
def test_weights_after_the_updates_agree(results: dict[str, Any], layout: str) -> None:
    one = of_one_rank(results, layout)["weights"]
    for stage in ("sft", "dpo"):
        ours = results[layout]["weights"][stage]
        assert ours.keys() == one[stage].keys()
        for name, tensor in one[stage].items():
            torch.testing.assert_close(ours[name], tensor, atol=ATOL_WEIGHTS, rtol=0, msg=f"{stage}: {name}")
    moved = max(float((one["dpo"][name] - one["sft"][name]).abs().max()) for name in one["sft"])
    assert moved > 50 * ATOL_WEIGHTS


@pytest.mark.parametrize("layout", RESUMED)
def test_a_checkpoint_of_another_layout_goes_on(results: dict[str, Any], layout: str) -> None:
    """Parameters, moments, schedule and reference arrive: the next update is the one that every layout makes there."""
    ours, theirs = results[layout]["resumed"], of_one_rank(results, layout)["next"]
    assert ours["metrics"] == pytest.approx(theirs["metrics"], rel=1e-4, abs=1e-6)
    for name, tensor in theirs["weights"].items():
        torch.testing.assert_close(ours["weights"][name], tensor, atol=ATOL_WEIGHTS, rtol=0, msg=name)
    for mine, one in zip(ours["values"], theirs["values"], strict=True):
        np.testing.assert_allclose(mine, one, atol=ATOL_LOG_PROBS)


@pytest.mark.parametrize("layout", ALL)
def test_a_checkpoint_of_any_layout_is_exported_by_one_process(
    results: dict[str, Any], layout: str, tmp_path: Path
) -> None:
    """Bit by bit what its ranks hand to the engines; low-rank updates are multiplied whole here, by rows there."""
    actor = Actor.of(layout_worlds.checkpoint_of(results["folder"], layout))
    ours, theirs = load_weights(export_merged(actor, tmp_path / "out", silent)), results[layout]["weights"]["saved"]
    assert ours.keys() >= theirs.keys() and all(name.startswith("encoder.") for name in ours.keys() - theirs.keys())
    atol = 1e-6 if ALL[layout].model == "lora" else 0.0
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, atol=atol, rtol=0, msg=name)


@pytest.mark.parametrize("layout", [name for name, world in ALL.items() if world.model != "lora"])
def test_an_imported_folder_is_read_in_any_layout(results: dict[str, Any], layout: str) -> None:
    wanted = load_weights(results["cases"][ALL[layout].model].model)
    assert results[layout]["imported"].keys()
    for name, tensor in results[layout]["imported"].items():
        assert torch.equal(tensor, wanted[name]), name


def test_the_batch_had_audio_and_text(results: dict[str, Any]) -> None:
    for batch in results["batches"].values():
        assert {bool(item.feature_keys) for item in batch} == {True, False}

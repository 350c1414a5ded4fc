"""Preference training and SFT on two ranks (gloo, data or tensor parallel) against one rank, adaptor trained too: same losses,
gradient norms, weights, with audio on both ranks, on one of them, on none.

Two processes are spawned once and run both layouts; the one-rank side runs here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from actor.dpo import PreferenceUpdate
from actor.layout import Layout
from actor.messages import PreferencePair, SftExample
from actor.publishing import payload_tensors
from actor.specs import DpoSpec
from actor.testing import Case, experiences, make_case, one_rank, optim, preference_pairs, sft_examples, trainer_spec
from actor.trainer import Trainer
from rollout import load_weights

pytestmark = pytest.mark.slow

ONE = Layout()
LAYOUTS = {"tp2": Layout(tensor=2), "dp2": Layout(data=2)}
DPO = DpoSpec(beta=0.2, sft_coef=0.1)


def spec_for(case: Case, layout: Layout = ONE) -> Any:
    return trainer_spec(
        case,
        layout=layout,
        freeze=("model.embed_tokens.",),
        actor_optim=optim(eps=1e-5),
        sft_optim=optim(eps=1e-5),
        micro_batch_tokens=80,
    )


def scenario(trainer: Trainer, pairs: list[PreferencePair], examples: list[SftExample]) -> dict[str, Any]:
    """Every kind of step; numbers to compare, how many of this rank's micro-batches hold audio, whether pairs are whole,
    and the weights at the end."""
    audio = [pair for pair in pairs if pair.feature_keys]
    text = [pair for pair in pairs if not pair.feature_keys]
    trainer.reset_optimizer("dpo", dpo=DPO)
    out: dict[str, Any] = {"references": trainer.reference_log_probs(pairs), "reports": [], "audio": {}, "one_pass": {}}
    # One pair is less than one unit a rank; an audio pair and a text pair give one rank audio and the other none.
    batches = {"all": pairs, "text": text, "one": audio[:1], "audio on one rank": [audio[0], text[0]]}
    for name, batch in batches.items():
        update = PreferenceUpdate(trainer, DPO, batch)
        out["audio"][name] = sum(len(b.audio_rows_A) > 0 for b in update.step.batches if b.counts)
        out["one_pass"][name] = update._one_pass()
        out["reports"].append(trainer.dpo_step(batch).metrics)
    trainer.reset_optimizer("sft")
    for batch in (examples, [e for e in examples if not e.feature_keys]):
        out["reports"].append(trainer.sft_step(batch).metrics)
    exported = trainer.weights(1)
    out["weights"] = payload_tensors(exported) if exported is not None else {}
    return out


def rank_main(rank: int, folder: str, case: Case, pairs: list[PreferencePair], examples: list[SftExample]) -> None:
    from actor.megatron.parallel import opened

    torch.set_num_threads(1)
    for name, layout in LAYOUTS.items():
        spec = spec_for(case, layout)
        with opened(layout, rank, f"file://{folder}/meet_{name}", seed=spec.seed) as joined:
            torch.save(scenario(Trainer(spec, joined), pairs, examples), f"{folder}/{name}_{rank}.pt")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each layout computed, by name and rank; "one" is one rank."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("layouts")
    case = make_case(folder, vocab_size=317, tie_word_embeddings=False)
    batch = experiences(case, questions=5, samples=4)
    # No margin is 0, whose sign would be the rounding's.
    pairs = [replace(p, reference_chosen=p.reference_chosen + i + 0.5) for i, p in enumerate(preference_pairs(batch))]
    examples = [replace(e, weight=0.5 + i % 3) for i, e in enumerate(sft_examples(batch))]
    context = torch.multiprocessing.get_context("spawn")
    ranks = [context.Process(target=rank_main, args=(rank, str(folder), case, pairs, examples)) for rank in range(2)]
    for process in ranks:
        process.start()
    found: dict[str, Any] = {"start": load_weights(case.model)}
    with one_rank(spec_for(case), folder) as trainer:
        found["one"] = scenario(trainer, pairs, examples)
    for process in ranks:
        process.join(timeout=300)
        if process.exitcode != 0:
            for other in ranks:
                other.kill()
            pytest.fail(f"a rank ended with {process.exitcode}")
    for name in LAYOUTS:
        found[name] = [torch.load(folder / f"{name}_{rank}.pt", weights_only=False) for rank in range(2)]
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_rank_reports_what_one_rank_does(results: dict[str, Any], layout: str) -> None:
    for rank in results[layout]:
        assert [p for pair in rank["references"] for p in pair] == pytest.approx(
            [p for pair in results["one"]["references"] for p in pair], abs=1e-4
        )
        for ours, one in zip(rank["reports"], results["one"]["reports"], strict=True):
            assert ours == pytest.approx(one, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_after_all_steps_agree_the_adaptors_too(results: dict[str, Any], layout: str) -> None:
    start, one, ours = results["start"], results["one"]["weights"], results[layout][0]["weights"]
    assert ours.keys() == one.keys()
    moved = {name: float((one[name] - start[name]).abs().max()) for name in one}
    assert all(moved[name] > 1e-3 for name in one if name.startswith("adapter."))
    apart = max(float((ours[name] - one[name]).abs().max()) for name in one)
    assert apart <= 1e-3 * max(moved.values())


def test_the_scenario_had_audio_on_one_rank_only(results: dict[str, Any]) -> None:
    counts = [rank["audio"] for rank in results["dp2"]]
    assert all(rank["all"] > 0 for rank in counts) and all(rank["text"] == 0 for rank in counts)
    assert sorted(rank["audio on one rank"] for rank in counts) == [0, 1]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_scenario_had_whole_and_cut_pairs_and_ranks_knew_which(results: dict[str, Any], layout: str) -> None:
    """Which pairs are whole depends on the layout (two ranks may share a lone pair out), but all ranks say the same of it."""
    ranks = [rank["one_pass"] for rank in results[layout]]
    assert ranks[0] == ranks[1]
    assert set(results["one"]["one_pass"].values()) == {True, False}

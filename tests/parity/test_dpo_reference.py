"""DPO and weighted SFT steps of the Megatron trainer against plain torch on audio and text pairs mixed: losses, gradient norms,
weights; the same numbers whether a pair's responses share a micro-batch or not.

One process, one rank; two ranks are in test_dpo_layouts.py, TRL's trainer in test_dpo_trl.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch_trainer import TorchTrainer

from actor.messages import PreferencePair
from actor.specs import DpoSpec
from actor.testing import Case, experiences, make_case, one_rank, optim, preference_pairs, sft_examples, trainer_spec

pytestmark = pytest.mark.slow

ABS_LOSS = 1e-5
REL_NORM = 1e-4
ABS_WEIGHT = 5e-5
EPS = 1e-6  # Adam divides gradients smaller than this by their own size, rounding included


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    torch.set_num_threads(1)
    return make_case(tmp_path_factory.mktemp("dpo"), vocab_size=317)


@pytest.fixture(scope="module")
def pairs(case: Case) -> list[PreferencePair]:
    made = preference_pairs(experiences(case, questions=5, samples=4))
    assert any(pair.feature_keys for pair in made) and not all(pair.feature_keys for pair in made)
    return made


@pytest.fixture(scope="module")
def far_pairs(pairs: list[PreferencePair]) -> list[PreferencePair]:
    """The same pairs, their reference another policy than the one at hand: no margin is near 0."""
    return [
        replace(
            pair,
            reference_chosen=pair.reference_chosen + (-1) ** i * (2 + i),
            reference_rejected=pair.reference_rejected + 0.7 * i,
        )
        for i, pair in enumerate(pairs)
    ]


@pytest.fixture(scope="module")
def trainer(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with one_rank(
        trainer_spec(case, sft_optim=optim(eps=EPS), actor_optim=optim(eps=EPS)), tmp_path_factory.mktemp("world")
    ) as opened:
        yield opened


@pytest.fixture
def fresh(trainer: Any, case: Case) -> Any:
    """The module's trainer with the checkpoint's weights again, in stage dpo."""
    restore(trainer, case, "dpo")
    return trainer


def restore(trainer: Any, case: Case, stage: str) -> None:
    from actor.megatron import weights
    from rollout import load_weights

    weights.load_tensors(trainer.actor.model, load_weights(case.model))
    trainer.reset_optimizer(stage)


def dpo_loss(torch_side: TorchTrainer, pairs: list[PreferencePair], spec: DpoSpec) -> torch.Tensor:
    """Mean over pairs, straight from the paper's formula, gradient through both responses at once."""
    values = []
    for pair in pairs:
        chosen_T = torch_side.log_probs(pair.prompt_ids, pair.chosen_ids, pair.feature_keys)
        rejected_T = torch_side.log_probs(pair.prompt_ids, pair.rejected_ids, pair.feature_keys)
        ratio = (chosen_T.sum() - pair.reference_chosen) - (rejected_T.sum() - pair.reference_rejected)
        right, swapped = F.softplus(-spec.beta * ratio), F.softplus(spec.beta * ratio)
        preference = (1 - spec.label_smoothing) * right + spec.label_smoothing * swapped
        values.append(preference - spec.sft_coef * chosen_T.mean())
    return torch.stack(values).mean()


def test_reference_log_probs_are_those_of_the_plain_model(fresh: Any, pairs: list[PreferencePair]) -> None:
    for (chosen, rejected), pair in zip(fresh.reference_log_probs(pairs), pairs, strict=True):
        assert chosen == pytest.approx(pair.reference_chosen, abs=5e-4)
        assert rejected == pytest.approx(pair.reference_rejected, abs=5e-4)


def test_reference_log_probs_do_not_depend_on_how_many_are_asked_at_once(
    fresh: Any, pairs: list[PreferencePair], monkeypatch: pytest.MonkeyPatch
) -> None:
    import actor.dpo

    together = fresh.reference_log_probs(pairs)
    monkeypatch.setattr(actor.dpo, "REFERENCE_PAIRS", 3)
    for a, b in zip(fresh.reference_log_probs(pairs), together, strict=True):
        assert a == pytest.approx(b, abs=1e-4)


@pytest.mark.parametrize(
    "spec", [DpoSpec(0.1), DpoSpec(0.3, 0.1, 0.2)], ids=["the paper's", "smoothed labels and SFT term"]
)
def test_three_dpo_steps_train_as_plain_torch_does(
    fresh: Any, case: Case, far_pairs: list[PreferencePair], spec: DpoSpec
) -> None:
    torch_side = TorchTrainer(case, eps=EPS)
    fresh.reset_optimizer("dpo", dpo=spec)
    for _ in range(3):
        theirs = torch_side.step(lambda side: dpo_loss(side, far_pairs, spec))
        ours = fresh.dpo_step(far_pairs).metrics
        assert ours["loss"] == pytest.approx(theirs.loss, abs=ABS_LOSS)
        assert ours["grad_norm"] == pytest.approx(theirs.grad_norm, rel=REL_NORM)
    assert torch_side.furthest(fresh) <= ABS_WEIGHT


def test_pairs_cut_by_the_packer_give_the_same_bits_and_others_nearly(
    fresh: Any, case: Case, far_pairs: list[PreferencePair], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass for the sums first changes no bit; responses in micro-batches of their own change rounding alone."""
    from actor.dpo import PreferenceUpdate

    assert PreferenceUpdate(fresh, DpoSpec(), far_pairs)._one_pass()
    results = []
    for one_pass, share in ((True, True), (False, True), (False, False)):
        restore(fresh, case, "dpo")
        with monkeypatch.context() as patch:
            if not one_pass:
                patch.setattr(PreferenceUpdate, "_one_pass", lambda self: False)
            patch.setattr(fresh.planner, "share_prompts", share)
            metrics = [fresh.dpo_step(far_pairs).metrics for _ in range(2)]
        results.append((metrics, fresh.weights(1).checksum))
    assert results[0] == results[1]
    for ours, one in zip(results[2][0], results[0][0], strict=True):
        assert ours == pytest.approx(one, rel=1e-3, abs=1e-4)


def test_a_budget_that_cuts_pairs_is_noticed_and_trains_alike(
    fresh: Any, case: Case, far_pairs: list[PreferencePair], monkeypatch: pytest.MonkeyPatch
) -> None:
    from actor.dpo import PreferenceUpdate

    whole = fresh.dpo_step(far_pairs).metrics
    longest = max(len(p.prompt_ids) + max(len(p.chosen_ids), len(p.rejected_ids)) for p in far_pairs)
    restore(fresh, case, "dpo")
    monkeypatch.setattr(fresh.planner, "_budget", longest)
    assert not PreferenceUpdate(fresh, DpoSpec(), far_pairs)._one_pass()
    cut = fresh.dpo_step(far_pairs).metrics
    assert cut == pytest.approx(whole, rel=1e-3, abs=1e-4)


def test_steps_prefer_the_chosen_and_say_so(fresh: Any, pairs: list[PreferencePair]) -> None:
    pairs = [
        replace(pair, reference_chosen=chosen, reference_rejected=rejected)
        for pair, (chosen, rejected) in zip(pairs, fresh.reference_log_probs(pairs), strict=True)
    ]
    first = fresh.dpo_step(pairs).metrics
    assert first["loss"] == pytest.approx(0.6931, abs=1e-3) and first["margin"] == pytest.approx(0, abs=1e-4)
    for _ in range(4):
        last = fresh.dpo_step(pairs).metrics
    assert last["accuracy"] == 1 and last["margin"] > 1 and last["loss"] < 0.4
    assert last["margin"] == pytest.approx(last["chosen_reward"] - last["rejected_reward"])
    moved = (last["chosen_logprob"] - last["rejected_logprob"]) - (first["chosen_logprob"] - first["rejected_logprob"])
    assert moved == pytest.approx(last["margin"] / DpoSpec().beta, rel=1e-3)
    assert last["pairs"] == len(pairs)
    assert last["response_tokens"] == sum(len(pair.chosen_ids) + len(pair.rejected_ids) for pair in pairs)


def test_pairs_that_cannot_be_trained_on_are_refused_by_name(fresh: Any, pairs: list[PreferencePair]) -> None:
    from actor.ppo import BatchRefused
    from actor.trainer import TrainerError

    bare = PreferencePair(
        "p7", *[getattr(pairs[0], n) for n in ("prompt_ids", "chosen_ids", "rejected_ids", "feature_keys")]
    )
    with pytest.raises(
        BatchRefused, match=r"pair p7: reference log-probs nan, nan .* take them from reference_log_probs"
    ):
        fresh.dpo_step([pairs[0], bare])
    with pytest.raises(BatchRefused, match="at least one pair"):
        fresh.dpo_step([])
    fresh.reset_optimizer("sft")
    with pytest.raises(TrainerError, match=r'call reset_optimizer\("dpo"\) first'):
        fresh.dpo_step(pairs)


def test_sft_weights_count_in_loss_and_normaliser(fresh: Any, case: Case) -> None:
    """Mean over response tokens of the whole step, each with its example's weight; equal weights are no weights."""
    batch = experiences(case, questions=5, samples=2, seed=1)
    weights_of = [0.25, 1.0, 3.0, 0.0, 0.5] * 2
    examples = [replace(item, weight=w) for item, w in zip(sft_examples(batch), weights_of, strict=True)]
    torch_side = TorchTrainer(case, eps=EPS)

    def loss(side: TorchTrainer) -> torch.Tensor:
        total = sum(
            -item.weight * side.log_probs(item.prompt_ids, item.response_ids, item.feature_keys).sum()
            for item in examples
        )
        return total / sum(item.weight * len(item.response_ids) for item in examples)

    fresh.reset_optimizer("sft")
    for _ in range(3):
        theirs = torch_side.step(loss)
        ours = fresh.sft_step(examples).metrics
        assert ours["loss"] == pytest.approx(theirs.loss, abs=ABS_LOSS)
        assert ours["grad_norm"] == pytest.approx(theirs.grad_norm, rel=REL_NORM)
    assert torch_side.furthest(fresh) <= ABS_WEIGHT


def test_equal_sft_weights_are_no_weights_and_senseless_ones_are_refused(fresh: Any, case: Case) -> None:
    from actor.ppo import BatchRefused

    examples = sft_examples(experiences(case, questions=3, samples=2, seed=2))
    reports = []
    for weight in (1.0, 4.0):
        restore(fresh, case, "sft")
        reports.append(fresh.sft_step([replace(item, weight=weight) for item in examples]).metrics)
    assert reports[0] == pytest.approx(reports[1], rel=1e-5)
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(BatchRefused, match="SFT weights must be finite, at least 0 and not all 0"):
            fresh.sft_step([replace(item, weight=weight) for item in examples])

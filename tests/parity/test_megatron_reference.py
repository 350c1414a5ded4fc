"""The Megatron model against the plain torch reference: log-probs, gradients' effect, value head, determinism.

One process, one rank; other layouts are in test_megatron_layouts.py.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from actor.messages import Experience
from actor.testing import Case, experiences, make_case, one_rank, ppo, sft_examples, trainer_spec
from rollout import FeatureCache, ProbeSequence
from rollout.model.reference import StepAudio2ForCausalLM

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    torch.set_num_threads(1)
    return make_case(tmp_path_factory.mktemp("tied"), vocab_size=317)


@pytest.fixture(scope="module")
def batch(case: Case) -> list[Experience]:
    return experiences(case, questions=5, samples=3)


@pytest.fixture(scope="module")
def trainer(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with one_rank(trainer_spec(case), tmp_path_factory.mktemp("world")) as opened:
        yield opened


@pytest.fixture
def fresh(trainer: Any, case: Case) -> Any:
    """The module's trainer with the checkpoint's weights again, in stage sft."""
    from actor.megatron import weights
    from rollout import load_weights

    weights.load_tensors(trainer.actor.model, load_weights(case.model))
    trainer.reset_optimizer("sft")
    return trainer


def worst(ours: list[np.ndarray], batch: list[Experience]) -> float:
    return max(float(np.abs(o - np.array(item.rollout_logprobs)).max()) for o, item in zip(ours, batch, strict=True))


def reference_loss(model: StepAudio2ForCausalLM, case: Case, batch: list[Experience]) -> torch.Tensor:
    """Token-mean cross entropy, one whole sequence at a time."""
    cache = FeatureCache(case.features)
    losses, tokens = [], 0
    for item in batch:
        ids = torch.tensor([[*item.prompt_ids, *item.response_ids]])
        features = [torch.from_numpy(cache.get(key)) for key in item.feature_keys]
        logits = model(ids, features)[0, len(item.prompt_ids) - 1 : -1]
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(item.response_ids), reduction="sum"))
        tokens += len(item.response_ids)
    return torch.stack(losses).sum() / tokens


def test_log_probs_of_mixed_audio_and_text_are_the_references(fresh: Any, batch: list[Experience]) -> None:
    assert any(item.feature_keys for item in batch) and not all(item.feature_keys for item in batch)
    assert worst(fresh.log_probs(batch), batch) <= 1e-4


def test_log_probs_do_not_depend_on_packing(fresh: Any, batch: list[Experience]) -> None:
    alone = [fresh.log_probs([item])[0] for item in batch[:4]]
    together = fresh.log_probs(batch)
    for a, b in zip(alone, together, strict=False):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_probe_gives_the_same_numbers_as_its_experience(fresh: Any, batch: list[Experience]) -> None:
    probes = [ProbeSequence((), item.prompt_ids, item.response_ids, item.feature_keys) for item in batch]
    for a, b in zip(fresh.log_probs(probes), fresh.log_probs(batch), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_sft_step_trains_as_plain_torch_does(fresh: Any, case: Case, batch: list[Experience]) -> None:
    """Three AdamW steps with clipping on both sides: losses, gradient norms, weights."""
    model = StepAudio2ForCausalLM.from_pretrained(case.model, with_encoder=False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith("adapter."))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    plain = torch.optim.AdamW(trained, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    for _ in range(3):
        loss = reference_loss(model, case, batch)
        plain.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        plain.step()
        report = fresh.sft_step(sft_examples(batch)).metrics
        assert report["loss"] == pytest.approx(loss.item(), abs=1e-4)
        assert report["grad_norm"] == pytest.approx(norm.item(), rel=1e-3)
    from actor.publishing import payload_tensors

    ours = payload_tensors(fresh.weights(1))
    for name, parameter in model.state_dict().items():
        if name in ours:
            torch.testing.assert_close(ours[name], parameter, atol=1e-4, rtol=0, msg=name)


def test_frozen_parts_stay_and_the_rest_moves(fresh: Any, batch: list[Experience]) -> None:
    from actor.publishing import payload_tensors

    before = payload_tensors(fresh.weights(0))
    fresh.sft_step(sft_examples(batch))
    after = payload_tensors(fresh.weights(1))
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert still == {name for name in before if name.startswith("adapter.")}


def test_the_critic_starts_at_zero_with_the_actors_body(fresh: Any, batch: list[Experience]) -> None:
    fresh.sft_step(sft_examples(batch))
    fresh.reset_optimizer("ppo")
    assert all((values == 0).all() for values in fresh.values(batch))
    actor, critic = dict(fresh.actor.model.named_parameters()), dict(fresh.critic.model.named_parameters())
    shared = [name for name in critic if "output_layer" not in name]
    assert shared and all(torch.equal(actor[name], critic[name]) for name in shared)


def test_one_pass_equals_separate_passes(fresh: Any, batch: list[Experience], monkeypatch: pytest.MonkeyPatch) -> None:
    """On-policy, old log-probs and values come from the update's own forward pass: same bits as extra passes give."""
    from actor.ppo import ActorUpdate, CriticUpdate

    results = []
    for one_pass in (True, False):
        fresh.reset_optimizer("ppo")
        start = copy.deepcopy(fresh.actor.model.state_dict())
        with monkeypatch.context() as patch:
            if not one_pass:
                patch.setattr(CriticUpdate, "_one_pass", lambda self: False)
                patch.setattr(ActorUpdate, "_one_pass", lambda self: False)
            report = fresh.ppo_update(batch, 0)
        results.append((report.metrics, fresh.weights(1).checksum))
        fresh.actor.model.load_state_dict(start)
    assert results[0] == results[1]


def test_the_same_batch_gives_the_same_bits(fresh: Any, batch: list[Experience]) -> None:
    results = []
    for _ in range(2):
        fresh.reset_optimizer("ppo")
        start = copy.deepcopy(fresh.actor.model.state_dict())
        reports = [fresh.ppo_update(batch, seed).metrics for seed in range(2)]
        results.append((reports, fresh.weights(2).checksum))
        fresh.actor.model.load_state_dict(start)
    assert results[0] == results[1]


def test_a_policy_update_reports_what_happened(fresh: Any, batch: list[Experience]) -> None:
    fresh.reset_optimizer("ppo")
    first = fresh.ppo_update(batch, 0)
    assert first.metrics["mismatch_max"] <= 1e-4
    assert first.metrics["explained_variance"] == pytest.approx(0, abs=1e-6)
    assert first.metrics["clip_fraction"] == 0 and first.metrics["approx_kl"] == 0
    assert first.metrics["advantage_mean"] == pytest.approx(0, abs=1e-5)
    assert first.metrics["response_tokens"] == sum(len(item.response_ids) for item in batch)
    assert {"log_probs", "values", "critic", "actor"} == set(first.seconds)
    for _ in range(4):
        last = fresh.ppo_update(batch, 0)
    assert last.metrics["value_loss"] < first.metrics["value_loss"]


def test_an_update_makes_rewarded_responses_likelier(fresh: Any, batch: list[Experience]) -> None:
    fresh.reset_optimizer("ppo")
    before = fresh.log_probs(batch)
    for seed in range(3):
        fresh.ppo_update(batch, seed)
    gain = [float((a - b).mean()) for a, b in zip(fresh.log_probs(batch), before, strict=True)]
    rewarded = [g for g, item in zip(gain, batch, strict=True) if item.reward > 0]
    unrewarded = [g for g, item in zip(gain, batch, strict=True) if item.reward == 0]
    assert np.mean(rewarded) > np.mean(unrewarded)


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 2, "minibatches": 2, "entropy_coef": 0.01, "kl_coef": 0.1, "value_clip": 0.2},
        {"gamma": 0.99, "lam": 0.95},
        {"advantage_estimator": "grpo", "whiten_advantages": False, "policy_loss": "gspo"},
    ],
    ids=["epochs, minibatches, entropy, kl, value clip", "discounted", "verl by name"],
)
def test_every_setting_of_an_update_runs(
    trainer: Any, fresh: Any, batch: list[Experience], changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "spec", replace(trainer.spec, ppo=ppo(**changes)))
    fresh.reset_optimizer("ppo")
    before = fresh.weights(0).checksum
    metrics = fresh.ppo_update(batch, 3).metrics
    assert all(np.isfinite(value) for value in metrics.values())
    assert fresh.weights(1).checksum != before
    if changes.get("kl_coef"):
        assert metrics["reference_kl"] > 0 and metrics["approx_kl"] > 0


def test_a_loss_that_is_no_number_stops_before_the_weights_move(fresh: Any, batch: list[Experience]) -> None:
    from actor.learner import TrainingDiverged

    fresh.reset_optimizer("ppo")
    before = fresh.weights(0).checksum
    with pytest.raises(TrainingDiverged, match="value_loss=nan is not a finite number; no step was taken"):
        fresh.ppo_update([replace(item, reward=float("nan")) for item in batch], 0)
    assert fresh.weights(0).checksum == before


def test_wrong_calls_and_batches_are_refused_by_name(fresh: Any, batch: list[Experience]) -> None:
    from actor.megatron.batch import BatchError
    from actor.ppo import BatchRefused
    from actor.trainer import TrainerError

    with pytest.raises(TrainerError, match=r'call reset_optimizer\("ppo"\) first'):
        fresh.ppo_update(batch, 0)
    with pytest.raises(TrainerError, match="there is no critic"):
        fresh.values(batch)
    with pytest.raises(TrainerError, match="there is no stage 'rl'; stages are sft, ppo"):
        fresh.reset_optimizer("rl")
    audio = next(item for item in batch if item.feature_keys)
    with pytest.raises(BatchError, match="yield 0; the prompt was built for other audio"):
        fresh.log_probs([replace(audio, feature_keys=())])
    patch_id = StepAudio2ForCausalLM.from_pretrained(fresh.spec.model_path).audio_patch_id
    with pytest.raises(BatchError, match="ban it when sampling"):
        fresh.log_probs([replace(audio, response_ids=(*audio.response_ids[:-1], patch_id))])
    fresh.reset_optimizer("ppo")
    with pytest.raises(BatchRefused, match=f"trajectory {audio.trajectory_id}: 0 log-probs"):
        fresh.ppo_update([replace(audio, rollout_logprobs=())], 0)

"""The trainer world over Ray: two data-parallel ranks as one object; death and silence of a rank are named."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray

from actor import DpoSpec, Layout, TrainerDied, TrainerGroup
from actor.messages import Experience
from actor.publishing import payload_tensors
from actor.testing import Case, experiences, make_case, optim, ppo, preference_pairs, sft_examples, trainer_spec
from rollout import ProbeSequence, load_weights
from rollout.model.reference import StepAudio2ForCausalLM

pytestmark = pytest.mark.slow

START_S = 240.0


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("group"))


@pytest.fixture(scope="module")
def batch(case: Case) -> list[Experience]:
    return experiences(case, questions=4, samples=2)


@pytest.fixture(scope="module")
def group(case: Case) -> Iterator[TrainerGroup]:
    started_here = not ray.is_initialized()
    if started_here:
        os.environ.setdefault(
            "RAY_worker_niceness", "0"
        )  # as a run does: Ray's default of 15 starves on a busy machine
        ray.init(num_cpus=5, include_dashboard=False, logging_level="error", object_store_memory=100_000_000)
    trainer = TrainerGroup(trainer_spec(case, layout=Layout(data=2)), step_timeout_s=120.0)
    trainer.start(START_S)
    yield trainer
    trainer.shutdown()
    if started_here:
        ray.shutdown()


def test_two_ranks_answer_as_one(group: TrainerGroup, batch: list[Experience]) -> None:
    for ours, item in zip(group.log_probs(batch), batch, strict=True):
        np.testing.assert_allclose(ours, item.rollout_logprobs, atol=1e-4)
    probes = [ProbeSequence((), item.prompt_ids, item.response_ids, item.feature_keys) for item in batch[:3]]
    for ours, item in zip(group.probe(probes), batch, strict=False):
        np.testing.assert_allclose(ours, item.rollout_logprobs, atol=1e-4)


def test_a_whole_run_through_the_group(
    group: TrainerGroup, case: Case, batch: list[Experience], tmp_path: Path
) -> None:
    """SFT, policy updates, publish, save, load, export; the published weights are those that the trainer scores with."""
    first = payload_tensors(group.weights(0))
    stored = load_weights(case.model)
    assert all((first[name] == stored[name]).all() for name in first)
    losses = [group.sft_step(sft_examples(batch)).metrics["loss"] for _ in range(3)]
    assert losses[-1] < losses[0]
    group.reset_optimizer("ppo")
    group.save(tmp_path / "saved")
    report = group.ppo_update(batch, 0)
    assert report.metrics["response_tokens"] == sum(len(item.response_ids) for item in batch)
    update = group.weights(2)
    reference = StepAudio2ForCausalLM.from_pretrained(case.model, weights=payload_tensors(update))
    text = next(item for item in batch if not item.feature_keys)
    expected = reference.log_probs(text.prompt_ids, text.response_ids).numpy()
    np.testing.assert_allclose(group.log_probs([text])[0], expected, atol=1e-4)
    group.export(tmp_path / "exported")
    assert all(
        (load_weights(tmp_path / "exported")[name] == tensor).all() for name, tensor in payload_tensors(update).items()
    )
    group.load(tmp_path / "saved")
    assert group.ppo_update(batch, 0).metrics == report.metrics
    assert group.weights(2).checksum == update.checksum


def test_preference_training_through_the_group(group: TrainerGroup, batch: list[Experience], tmp_path: Path) -> None:
    """Reference log-probs, a stage with settings of its own, steps, and back to the weights before them."""
    group.save(tmp_path / "before")
    checksum = group.weights(1).checksum
    pairs = preference_pairs(batch)
    pairs = [
        replace(pair, reference_chosen=chosen, reference_rejected=rejected)
        for pair, (chosen, rejected) in zip(pairs, group.reference_log_probs(pairs), strict=True)
    ]
    group.reset_optimizer("dpo", optim(lr=2e-3), dpo=DpoSpec(beta=0.2))
    reports = [group.dpo_step(pairs).metrics for _ in range(3)]
    assert reports[0]["margin"] == pytest.approx(0, abs=1e-4) and reports[0]["lr"] == 2e-3
    assert reports[-1]["margin"] > 0.5 and reports[-1]["loss"] < reports[0]["loss"]
    assert group.weights(2).checksum != checksum
    group.load_weights_only(tmp_path / "before")
    assert group.weights(3).checksum == checksum


def test_a_critic_on_ranks_of_its_own_trains_as_one_that_shares_them(
    group: TrainerGroup, case: Case, batch: list[Experience], tmp_path: Path
) -> None:
    """One actor rank and a critic over two: the same updates, also after a checkpoint, which the shared ranks can read."""
    spec = trainer_spec(case, critic_layout=Layout(tensor=2), critic_apart=True)
    apart = TrainerGroup(spec, step_timeout_s=120.0)
    apart.start(START_S)
    try:
        results = []
        for trainer, folder in ((apart, tmp_path / "apart"), (group, tmp_path / "shared")):
            trainer.load_weights_only(fresh_checkpoint(group, case, tmp_path))
            trainer.reset_optimizer("ppo", ppo=ppo(minibatches=2))
            reports = [trainer.ppo_update(batch, 0).metrics]
            trainer.save(folder)
            reports.append(trainer.ppo_update(batch, 1).metrics)
            results.append((reports, trainer.values(batch), payload_tensors(trainer.weights(1))))
        apart.load(tmp_path / "apart")
        again = apart.ppo_update(batch, 1).metrics
        group.load(tmp_path / "apart")
        shared = group.ppo_update(batch, 1).metrics
    finally:
        apart.shutdown()
    (reports, values, weights), (expected, expected_values, expected_weights) = results
    for ours, one in zip([*reports, again, shared], [*expected, reports[1], reports[1]], strict=True):
        assert ours == pytest.approx(one, rel=1e-3, abs=1e-5)
    for ours, one in zip(values, expected_values, strict=True):
        np.testing.assert_allclose(ours, one, atol=1e-5)
    for name, tensor in expected_weights.items():
        np.testing.assert_allclose(weights[name], tensor, atol=1e-5, err_msg=name)


def fresh_checkpoint(group: TrainerGroup, case: Case, folder: Path) -> Path:
    """A checkpoint that both trainers begin with."""
    path = folder / "start"
    if not path.exists():
        group.reset_optimizer("sft")
        group.save(path)
    return path


def test_a_killed_rank_is_named_and_the_world_ends(group: TrainerGroup, batch: list[Experience]) -> None:
    pids = list(group.pids)
    os.kill(pids[1], signal.SIGKILL)
    with pytest.raises(TrainerDied, match=r"trainer rank [01] \(pid \d+ on \S+\): .*sft_step") as caught:
        group.sft_step(sft_examples(batch))
    assert caught.value.rank in (0, 1)
    deadline = time.monotonic() + 30
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(psutil.pid_exists(pid) for pid in pids)
    with pytest.raises(TrainerDied, match="call start first"):
        group.weights(1)


def test_a_refused_batch_comes_back_with_its_reason(group: TrainerGroup, batch: list[Experience]) -> None:
    """The group starts again after a death; what a rank raises is named."""
    group.start(START_S)
    audio = next(item for item in batch if item.feature_keys)
    with pytest.raises(
        TrainerDied, match=r"trainer rank [01] \(pid \d+ on \S+\): log_probs failed: BatchError: a prompt has \d+ audio"
    ):
        group.log_probs([replace(audio, feature_keys=())])


def test_a_rank_that_does_not_answer_in_time_is_named(group: TrainerGroup) -> None:
    with pytest.raises(TrainerDied, match="trainer rank 0: no answer to start within 0 s"):
        group.start(0.001)

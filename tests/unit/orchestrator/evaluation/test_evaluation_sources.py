"""Digests are of contents, a run's settings are carried over, and what can't be evaluated is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from orchestrator.config.compose import compose_config, to_yaml
from orchestrator.errors import PreflightError
from orchestrator.eval_cli import ks_of
from orchestrator.evaluation.run import Request, configured, scoring_digest, scoring_of
from orchestrator.evaluation.sources import (
    Checkpoint,
    EvaluationData,
    benchmark_data,
    find_checkpoint,
    limited,
    model_digest,
    questions_digest,
)
from rewards import RewardTerm
from rollout import BASE_DIR, AnswerKind, AudioRef, Question


def question(number: int, task: str = "word", path: str = "/a/clip.wav", seconds: float = 1.0) -> Question:
    clip = AudioRef(path, f"{number:064d}", seconds)
    return Question(f"q{number}", "Which?", "dog", AnswerKind.CHOICE, ("dog", "cat"), audio=(clip,), task=task)


def data(questions: list[Question], *terms: RewardTerm) -> EvaluationData:
    return EvaluationData("d", Path("/d"), questions, questions_digest(questions), terms)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BASE_DIR, tmp_path / "run/model"))


def test_moving_the_clips_keeps_the_digest_and_changing_anything_else_does_not() -> None:
    here, there = [question(1), question(2)], [question(1, path="/b/x.wav"), question(2, path="/c/y.wav")]
    assert questions_digest(here) == questions_digest(there)
    assert questions_digest(here) != questions_digest(here[::-1])
    other = dataclasses.replace(here[0], audio=(dataclasses.replace(here[0].audio[0], sha256="f" * 64),))
    assert questions_digest(here) != questions_digest([other, here[1]])
    assert questions_digest(here) != questions_digest([dataclasses.replace(here[0], answer="cat"), here[1]])


def test_a_models_digest_follows_its_weights_and_not_its_place(model: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(model, tmp_path / "elsewhere"))
    assert model_digest(model) == model_digest(copy)
    weights = next(copy.glob("*.safetensors"))
    body = bytearray(weights.read_bytes())
    body[-1] ^= 1
    weights.write_bytes(bytes(body))
    assert model_digest(model) != model_digest(copy)


def test_a_limit_takes_the_same_questions_balanced_over_tasks() -> None:
    questions = [question(n, "word" if n < 90 else "order") for n in range(100)]
    some = limited(data(questions), 10)
    assert sum(q.task == "order" for q in some.questions) == 5
    assert some == limited(data(questions), 10)
    assert some.digest != data(questions).digest
    assert limited(data(questions), 0) == data(questions) == limited(data(questions), 100)


def test_a_runs_model_is_sampled_as_the_run_sampled_unless_the_user_says_otherwise(model: Path) -> None:
    run_dir = model.parent
    config = compose_config(["rollout.max_new_tokens=96", "rollout.temperature=0.7"])
    (run_dir / "config.yaml").write_text(to_yaml(config))
    (run_dir / "state.json").write_text(json.dumps({"mlflow_run_id": "r" * 32}))
    checkpoint = Checkpoint(
        model, "d", str(run_dir), "r" * 32, ("rollout.max_new_tokens=96", "rollout.temperature=0.7")
    )
    request = Request(checkpoint, data([question(1)]), run_dir / "e", overrides=("rollout.temperature=0.9",))
    made = configured(request)
    assert (made.rollout.max_new_tokens, made.rollout.temperature) == (96, 0.9)


def test_long_clips_get_the_room_they_need() -> None:
    request = Request(Checkpoint(Path("/m"), "d"), data([question(1, seconds=130.0)]), Path("/e"))
    assert configured(request).model.max_audio_chunks == 6


def test_a_reward_that_can_t_be_used_is_refused_by_name() -> None:
    config = compose_config([])
    with pytest.raises(PreflightError, match="scoring of d"):
        scoring_of(config, data([question(1)], RewardTerm("nonsense", 1.0, "any")))
    assert set(scoring_of(config, data([question(1)], RewardTerm("answer", 1.0, "any"))).versions) == {"answer"}


def test_another_parameter_or_version_of_a_term_is_another_scoring() -> None:
    term = RewardTerm("judge", 1.0, "any", {"model": "judge-8b", "url": "http://a/v1"})
    assert scoring_digest([term]) == scoring_digest([dataclasses.replace(term, parameters={**term.parameters})])
    others = [{"parameters": {**term.parameters, "model": "judge-70b"}}, {"version": "v2"}, {"name": "answer"}]
    assert len({scoring_digest([term]), *(scoring_digest([dataclasses.replace(term, **o)]) for o in others)}) == 4  # type: ignore[arg-type]


def test_every_model_that_a_run_keeps_leads_to_its_run(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    kept = Path(shutil.copytree(BASE_DIR, run_dir / "models/t1"))
    assert find_checkpoint(str(kept)).run_dir == ""
    (run_dir / "state.json").write_text(json.dumps({"mlflow_run_id": "r" * 32}))
    (run_dir / "config.yaml").write_text(to_yaml(compose_config(["rollout.max_new_tokens=96"])))
    found = find_checkpoint(str(kept))
    assert (found.path, found.run_dir, found.run_id) == (kept, str(run_dir), "r" * 32)
    assert "rollout.max_new_tokens=96" in found.overrides


def test_more_draws_than_samples_are_refused_where_they_were_asked_for() -> None:
    assert ks_of("1,4", 4) == (1, 4) and ks_of("", 4) == (1, 4) and ks_of("", 2) == (1,)
    with pytest.raises(PreflightError, match="--samples 4"):
        ks_of("1,8", 4)
    with pytest.raises(PreflightError, match="1 or more"):
        ks_of("0", 4)


def test_what_is_no_model_or_benchmark_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(PreflightError, match="exported no model yet"):
        find_checkpoint(str(tmp_path))
    with pytest.raises(PreflightError, match=r"no \*.safetensors"):
        model_digest(tmp_path)
    with pytest.raises(PreflightError, match="there are mmau"):
        benchmark_data("mmlu", tmp_path, None)
    with pytest.raises(PreflightError, match="a judge must grade"):
        benchmark_data("wild_speech", tmp_path, None)

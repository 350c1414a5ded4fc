"""The last filter asks a server about nothing but the candidates; whoever has no answer is dropped and counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from endpoint_server import Answer, EndpointServer, Request, completion
from scored_responses import response

import rewards.endpoints.client as client_module
from orchestrator.config.compose import compose_config
from orchestrator.distillation.chains import DistilSettings, Provenance, candidates, distil
from orchestrator.distillation.filters import FilterRule
from orchestrator.errors import ConfigError, PreflightError
from orchestrator.preflight import examiner_versions, judge_versions, resolve_judge
from orchestrator.specs import judge_filter_spec
from orchestrator.stages.judge_filter import Answers, Judgement, spent
from orchestrator.stages.scoring import Scored
from rewards import Scorer, Verdict

WHO = Provenance("t1", seed=17, iteration=2)
SETTINGS = DistilSettings((FilterRule("correct", min=1.0),), judge=FilterRule("judge", min=0.5), max_chains=2)
JUDGE = "+pipeline.distil.judge={{name: judge, parameters: {{url: '{url}/v1', model: m, attempts: 1, price_in: 2.0{more}}}}}"


def said(reply: str) -> str:
    return f"<think>\nI heard what was {reply}.\n</think>\n{reply}"


GROUP = [
    response(0, said("fine")),
    response(1, said("poor")),
    response(2, said("mute")),
    response(3, said("wrong"), components={"answer": 0.0}),
    response(4, said("lost"), invalid=True),
    response(5, said("Fine.").replace("was", "was the")),
]


def judging(request: Request) -> Answer:
    text = str(request.body["messages"][0]["content"])
    if "mute" in text:
        return Answer("broken", status=500)
    return completion(f"Because.\nLEVEL: {'2' if 'poor' in text else '4'}")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[EndpointServer]:
    monkeypatch.setattr(client_module, "BACKOFF_S", 0.01)
    with EndpointServer(judging) as server:
        yield server


def asked(server: EndpointServer, folder: Path, chains: tuple[Scored, ...]) -> dict[str, Verdict]:
    config = compose_config(["experiment=mgrd_tiny", JUDGE.format(url=server.url, more="")])
    reward = resolve_judge(config, costs_file=str(folder / "costs.jsonl"))
    assert reward is not None
    with Scorer(reward) as scorer:
        return Answers(folder / "stage" / "judged.jsonl", scorer.versions).complete(chains, scorer.score)


def test_only_candidates_are_asked_about_and_no_answer_is_no_score(server: EndpointServer, tmp_path: Path) -> None:
    chains = candidates([GROUP], SETTINGS)
    assert [chain.trajectory.sample for chain in chains] == [0, 1, 2]
    verdicts = asked(server, tmp_path, chains)
    assert len(server.requests) == 3
    found = distil([GROUP], SETTINGS, WHO, verdicts)
    assert {reason: n for reason, n in found.funnel.items() if n} == {
        "invalid": 1,
        "correct": 1,
        "duplicate": 1,
        "judge": 1,
        "judge_invalid": 1,
        "kept": 1,
    }
    assert found.sampled == sum(found.funnel.values()) == len(GROUP)
    (chain,) = found.kept
    assert chain.trajectory_id == "t/q/0" and chain.components["judge"] == 0.75
    complaint = Judgement(verdicts, {}, {}).complaint
    assert "no verdict on 1 chains" in complaint and "judge answered 500" in complaint


def test_answers_are_paid_for_once_and_what_was_not_answered_is_asked_again(
    server: EndpointServer, tmp_path: Path
) -> None:
    chains = candidates([GROUP], SETTINGS)
    first = asked(server, tmp_path, chains)
    assert spent(tmp_path / "costs.jsonl") == {
        "requests": 2.0, "tokens_in": 200.0, "tokens_out": 40.0, "money": pytest.approx(4e-4),
    }  # fmt: skip
    server.script = lambda _: completion("Because.\nLEVEL: 1")
    second = asked(server, tmp_path, chains)
    assert len(server.requests) == 4
    assert second["t/q/0"] == first["t/q/0"] and second["t/q/0"].notes
    assert not first["t/q/2"].valid and second["t/q/2"].components["judge"] == 0.0
    other = response(0, said("other"))
    assert asked(server, tmp_path, (other,))["t/q/0"].components["judge"] == 0.0  # another text under the same id
    assert spent(tmp_path / "costs.jsonl")["requests"] == 4.0


def test_a_candidate_that_was_never_asked_about_is_an_error_and_no_verdict() -> None:
    with pytest.raises(KeyError, match="t/q/0"):
        distil([GROUP], SETTINGS, WHO, {})


def test_a_judge_is_resolved_before_anything_starts_and_only_where_something_is_distilled() -> None:
    judge = JUDGE.format(url="http://127.0.0.1:1", more="")
    assert list(judge_versions(compose_config(["experiment=mgrd_tiny", judge]))) == ["judge"]
    assert judge_versions(compose_config(["experiment=mgrd_tiny"])) == {}
    assert judge_filter_spec(compose_config(["experiment=demo", judge])) is None
    assert judge_filter_spec(compose_config(["experiment=mgrd_tiny_rl_alone", judge])) is None
    for bad, words in (
        (judge.replace("name: judge", "name: jugde"), "jugde"),
        (JUDGE.format(url="http://127.0.0.1:1", more=", vots: 2"), "vots"),
    ):
        with pytest.raises(PreflightError, match=f"pipeline.distil.judge: .*{words}"):
            resolve_judge(compose_config(["experiment=mgrd_tiny", bad]))
    with pytest.raises(ConfigError, match=r"pipeline\.distil\.judge\.min_score"):
        compose_config(["experiment=mgrd_tiny", judge, "pipeline.distil.judge.min_score=.nan"])


def test_other_parameters_are_another_judge_and_the_examiner_has_none() -> None:
    judge = JUDGE.format(url="http://127.0.0.1:1", more="")
    config = compose_config(["experiment=mgrd_tiny", judge])
    other = compose_config(
        ["experiment=mgrd_tiny", JUDGE.format(url="http://127.0.0.1:1", more=", votes: 1, max_tokens: 9")]
    )
    assert judge_versions(config) != judge_versions(other)
    versions = examiner_versions(config)
    assert {"answer", "grounding", "self_cognition"} <= set(versions) and "judge" not in versions
    assert examiner_versions(compose_config(["experiment=mgrd_tiny", "pipeline.distil.against=clip"])) != versions

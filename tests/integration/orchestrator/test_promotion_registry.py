"""The alias `champion` in a real registry moves only when every guardrail holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator.evaluation.promotion import (
    REFUSED_TAG,
    Guardrail,
    PromotionError,
    champion_of,
    promote,
)

pytestmark = pytest.mark.slow
NAME = "mgrd-test"
RAILS = [Guardrail("greedy/value", at_least=0.5, within=0.02)]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A registry in SQLite, without a server."""
    return f"sqlite:///{tmp_path_factory.mktemp('registry') / 'mlflow.db'}"


@pytest.fixture
def client(uri: str, tmp_path: Path) -> MlflowClient:
    client = MlflowClient(uri, uri)
    if any(model.name == NAME for model in client.search_registered_models()):
        client.delete_registered_model(NAME)
    client.create_registered_model(NAME)
    return client


def register(client: MlflowClient, folder: Path) -> tuple[str, str]:
    """(version, run id) of a new version."""
    experiment = client.create_experiment(f"e-{folder.name}-{len(list(folder.iterdir()))}", folder.as_uri())
    (folder / f"{experiment}.txt").write_text("")
    run_id = client.create_run(experiment).info.run_id
    version = client.create_model_version(NAME, f"runs:/{run_id}/model", run_id, await_creation_for=0)
    return str(version.version), run_id


def result(greedy: float) -> dict[str, dict[str, float]]:
    return {"greedy": {"value": greedy}}


def test_the_first_that_holds_becomes_champion_by_version_or_run(
    uri: str, client: MlflowClient, tmp_path: Path
) -> None:
    version, run_id = register(client, tmp_path)
    outcome = promote(uri, NAME, run_id, result(0.6), RAILS)
    assert outcome.promoted and outcome.champion == version
    assert str(champion_of(client, NAME).version) == version
    assert promote(uri, NAME, version, result(0.6), RAILS).promoted


def test_a_failing_guardrail_leaves_the_champion_and_says_why(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    first, _ = register(client, tmp_path)
    second, _ = register(client, tmp_path)
    promote(uri, NAME, first, result(0.6), RAILS)
    outcome = promote(uri, NAME, second, result(0.55), RAILS)
    assert not outcome.promoted
    assert (outcome.version, outcome.champion) == (second, first)
    assert "worse than the champion's 0.6" in str(outcome.violations[0])
    assert str(champion_of(client, NAME).version) == first
    assert "worse than" in client.get_model_version(NAME, second).tags[REFUSED_TAG]


def test_a_later_and_better_version_takes_over_and_is_then_what_others_are_compared_with(
    uri: str, client: MlflowClient, tmp_path: Path
) -> None:
    versions = [register(client, tmp_path)[0] for _ in range(3)]
    assert promote(uri, NAME, versions[0], result(0.6), RAILS).promoted
    assert not promote(uri, NAME, versions[1], result(0.4), RAILS).promoted
    assert promote(uri, NAME, versions[1], result(0.7), RAILS).promoted
    assert REFUSED_TAG not in client.get_model_version(NAME, versions[1]).tags
    assert not promote(uri, NAME, versions[2], result(0.61), RAILS).promoted
    assert str(champion_of(client, NAME).version) == versions[1]


def test_no_champion_and_a_failing_guardrail_leave_none(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    version, _ = register(client, tmp_path)
    outcome = promote(uri, NAME, version, result(0.3), RAILS)
    assert not outcome.promoted and outcome.champion is None
    assert champion_of(client, NAME) is None


def test_a_version_that_is_not_there_is_an_error(uri: str, client: MlflowClient) -> None:
    with pytest.raises(PromotionError, match="registered no version"):
        promote(uri, NAME, "f" * 32, result(0.9), RAILS)
    with pytest.raises(PromotionError, match="did not take"):
        promote(uri, NAME, "77", result(0.9), RAILS)

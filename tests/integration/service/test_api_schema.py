"""What `/openapi.json` promises is what the server does: requests made from the schema, answers checked against it."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from api_room import ApiRoom
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

EXAMPLES = 6  # of each operation and kind: the whole file stays below ten seconds
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
ENDLESS = ("/v1/events", "/v1/experiments/{id}/events")
NOT_READY = "/readyz"  # 503 by right: there is no scheduler here
SCORES = "/v1/score"  # starts processes for what is valid: tests of the reward service do that


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiRoom]:
    running = ApiRoom(tmp_path_factory.mktemp("api"))
    yield running
    running.close()


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["fitting", "unfitting"])
def test_no_request_made_from_the_schema_breaks_the_server_or_its_promises(room: ApiRoom, mode: GenerationMode) -> None:
    made = room.submit("experiment=micro")
    headers = {"Authorization": f"Bearer {room.secrets['admin']}"}
    schema = schemathesis.openapi.from_url(f"{room.url}/openapi.json")
    done, wrong = 0, {}
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path in (*ENDLESS, NOT_READY) or (operation.path == SCORES and mode is GenerationMode.POSITIVE):
            continue
        if operation.method == "put":
            continue  # a zip can't be made from a schema: see the tests of code
        described = room.app.openapi()["paths"][operation.path][operation.method]
        if mode is GenerationMode.NEGATIVE and not (described.get("parameters") or described.get("requestBody")):
            continue  # nothing that could be wrong

        @settings(
            max_examples=EXAMPLES,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            nonlocal done
            if "id" in (case.path_parameters or {}) and "tokens" not in case.path and mode is GenerationMode.POSITIVE:
                case.path_parameters["id"] = made["id"]
            if case.query:
                case.query.pop("follow", None)  # without end while the experiment waits
            case.call_and_validate(headers=headers, checks=CHECKS, timeout=300.0)
            done += 1

        try:
            ask()
        except (FailureGroup, Failure) as failure:
            wrong[operation.label] = "".join(traceback.format_exception(failure))[-1500:]
    assert not wrong, "\n".join(wrong.values())
    assert done > 100
    assert room.clients["nobody"].get("/healthz").status_code == 200

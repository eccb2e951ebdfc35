"""The API fuzzed by its own OpenAPI document: no answer that the document does not allow, and none of 5xx."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import checks
from schemathesis.generation.feedback import FeedbackSources
from schemathesis.pytest._test_builder import build_operation_test
from schemathesis.python._constants.orchestrator import make_constants_value_source

from gateway.http.application import guarded
from gateway.settings import HttpSettings
from tests.fixtures.http_fakes import mounted_for, world

made = world(fresh=True)
made.mounted.entrance = mounted_for(HttpSettings(allowed_hosts=("testserver",))).entrance
schema = schemathesis.openapi.from_asgi("/openapi.json", guarded(made.app)).include(path_regex="^/v1/")
CHECKS = (
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
)


OPERATIONS = {found.ok().label: found.ok() for found in schema.get_all_operations()}


@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def conforms(case: schemathesis.Case) -> None:
    case.call_and_validate(headers={"Authorization": "Bearer admin"}, checks=list(CHECKS))


@pytest.mark.parametrize("label", OPERATIONS)
def test_every_answer_conforms(label: str) -> None:
    """As `schema.parametrize()` does it. That makes all cases where tests are collected, which is in every worker."""
    build_operation_test(
        config=schema.config,
        operation=OPERATIONS[label],
        test_func=conforms,
        given_kwargs={},
        feedback=FeedbackSources(constants_value_source=make_constants_value_source(schema)),
    )()

"""The API fuzzed by its own OpenAPI document: no answer that the document does not allow, and none of 5xx."""

from __future__ import annotations

import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import checks

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


@schema.parametrize()
@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_conforms(case: schemathesis.Case) -> None:
    case.call_and_validate(headers={"Authorization": "Bearer admin"}, checks=list(CHECKS))

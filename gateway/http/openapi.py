"""The OpenAPI document: FastAPI's, completed with every error that a route can answer, as a problem with its
codes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from gateway.http.problem import CODES, MEDIA_TYPE, Problem, example

Json = dict[str, Any]  # OpenAPI is JSON: FastAPI types it so

DESCRIPTION = """\
Connections of customers' systems, what became of their readings, and what needs a person.

Send `Authorization: Bearer fg_...`. Roles: a **viewer** reads; an **operator** also pauses, resumes, syncs,
rechecks, replays and makes reconnect links; an **admin** also creates, changes and disconnects connections
and looks after webhooks.
A token may be bound to one customer: nothing of another exists for it.

Errors are `application/problem+json`; `code` is stable. 401 and 403 always mean your own token, never a
system's credential.
Every response has `X-Request-ID`.
Lists are paged: give `next` back as `cursor`.
"""


def problems(*codes: str) -> dict[int | str, Json]:
    """For a route's `responses`: the problems with these codes, those of one status together."""
    by_status: dict[int, list[str]] = defaultdict(list)
    for code in codes:
        by_status[CODES[code].status].append(code)
    return {status: _response(found) for status, found in by_status.items()}


def complete(app: FastAPI) -> Json:
    """The document, made once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes
        )
        schemas = document["components"]["schemas"]
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        schemas["Problem"] = Problem.model_json_schema()
        for path, operations in document["paths"].items():
            for operation in operations.values():
                _complete(path, operation)
        app.openapi_schema = document
    return app.openapi_schema


def _complete(path: str, operation: Json) -> None:
    responses = operation["responses"]
    for status in [
        status for status, response in responses.items() if "HTTPValidationError" in str(response)
    ]:
        del responses[status]
    common = ["gateway.internal", "gateway.overloaded"]
    if operation.get("security"):
        common += ["auth.unauthenticated", "auth.forbidden"]
    if "{connection}" in path:
        common.append("request.not_found")
    if operation.get("parameters") or "requestBody" in operation:
        common.append("request.invalid")
    if "requestBody" in operation:
        common += ["request.too_large", "request.timeout"]
    for status, response in problems(*common).items():
        _merge(responses, str(status), response)
    for response in responses.values():
        response["headers"] = {
            **response.get("headers", {}),
            "X-Request-ID": {"schema": {"type": "string"}, "description": "Names the request in the log."},
        }
    if "304" in responses:
        responses["304"].pop("content", None)
        for status in ("200", "304"):
            responses[status]["headers"]["ETag"] = {
                "schema": {"type": "string"},
                "description": "The document's version.",
            }
    operation["responses"] = dict(sorted(responses.items()))


def _response(codes: list[str]) -> Json:
    examples: Mapping[str, Json] = {code: {"value": example(code)} for code in codes}
    return {
        "description": " · ".join(f"`{code}`" for code in codes),
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": examples}},
    }


def _merge(responses: Json, status: str, added: Json) -> None:
    """A route's own problem of this status keeps its codes beside those that every route has."""
    known = responses.get(status)
    if known is None or MEDIA_TYPE not in known.get("content", {}):
        responses[status] = added
        return
    content = known["content"][MEDIA_TYPE]
    content["examples"] = {**content["examples"], **added["content"][MEDIA_TYPE]["examples"]}
    known["description"] = " · ".join(f"`{code}`" for code in content["examples"])

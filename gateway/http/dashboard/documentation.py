"""`/docs`: the OpenAPI document as a page of our own, so that nothing is loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Request, Response

from gateway.http.dashboard.rendering import render
from gateway.http.dashboard.sessions import Visiting

router = APIRouter(include_in_schema=False)

Json = dict[str, Any]  # OpenAPI is JSON


@router.get("/docs")
async def documentation(request: Request, _: Visiting) -> Response:
    """Every operation and every schema, in the order of the document."""
    document: Json = request.app.openapi()
    groups: dict[str, list[Json]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            groups.setdefault(operation.get("tags", ["other"])[0], []).append(
                _operation(path, method, operation)
            )
    schemas = {name: list(_fields(schema)) for name, schema in document["components"]["schemas"].items()}
    described = {
        name: schema.get("description", "") for name, schema in document["components"]["schemas"].items()
    }
    return render(
        request, "docs.html", info=document["info"], groups=groups, schemas=schemas, described=described
    )


def _operation(path: str, method: str, operation: Json) -> Json:
    body = operation.get("requestBody", {}).get("content", {})
    return {
        "id": operation["operationId"],
        "path": path,
        "method": method.upper(),
        "summary": operation.get("summary", ""),
        "description": operation.get("description", ""),
        "parameters": operation.get("parameters", []),
        "body": [_kind(content["schema"]) for content in body.values()],
        "responses": [
            (
                status,
                response["description"],
                [
                    _kind(content["schema"])
                    for content in response.get("content", {}).values()
                    if content.get("schema")
                ],
            )
            for status, response in operation["responses"].items()
        ],
    }


def _fields(schema: Json) -> Iterator[tuple[str, str, bool, str]]:
    """Name, type, whether it must be there, and what it is."""
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        yield name, _kind(field), name in required, field.get("description", "")


def _kind(schema: Json) -> str:
    """A type in a few words; a schema of its own by its name."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(_kind(choice) for choice in choices)
    if "const" in schema:
        return repr(schema["const"])
    if "enum" in schema:
        return " or ".join(repr(choice) for choice in schema["enum"])
    kind = str(schema.get("type", "any"))
    if kind == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    return f"{kind} ({schema['format']})" if "format" in schema else kind

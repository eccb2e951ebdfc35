"""Answers of the demonstration CMMS."""

from __future__ import annotations

import orjson
from fastapi import Response


def invalid_answer(error: str, path: str, value: object) -> Response:
    """A 400 that says what is wrong with which field."""
    # MaintainX public API reference: errors: 400 and 403 carry `errors` with `error`, `fieldPath` and
    # `fieldValue`.
    return json_answer(400, {"errors": [{"error": error, "fieldPath": path, "fieldValue": value}]})


def json_answer(status: int, document: object) -> Response:
    """A document with this status."""
    return Response(orjson.dumps(document), status_code=status, media_type="application/json")

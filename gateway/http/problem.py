"""Errors as `application/problem+json` (RFC 9457) with stable codes; for browsers as a page. It decides
nothing: errors come from elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from gateway.bulkhead import note
from gateway.model.errors import RequestRefused, StoreError, StoreRejected, StoreUnavailable

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
UNAVAILABLE_SECONDS = 1.0
MAX_TOLD = 100
"""Faults of one request."""


@dataclass(frozen=True, slots=True)
class ProblemKind:
    """What a code means: the HTTP status, a sentence, and whether the same request may succeed later without
    anybody doing anything.
    """

    status: int
    title: str
    retryable: bool = False


CODES = {
    "request.invalid": ProblemKind(422, "The request is not valid"),
    "request.not_found": ProblemKind(404, "Not found"),
    "request.method_not_allowed": ProblemKind(405, "This address does not take this method"),
    "request.conflict": ProblemKind(409, "The request does not fit what is there"),
    "request.unsupported": ProblemKind(422, "The system cannot do this"),
    "request.too_large": ProblemKind(413, "The body is too large"),
    "request.timeout": ProblemKind(408, "The body took too long to arrive", retryable=True),
    "auth.unauthenticated": ProblemKind(401, "A valid API token is needed"),
    "auth.too_many_attempts": ProblemKind(429, "Too many failed attempts from this address", retryable=True),
    "request.misdirected": ProblemKind(421, "This gateway does not answer to that host name"),
    "auth.forbidden": ProblemKind(403, "This API token may not do that"),
    "connection.reauthorization_required": ProblemKind(409, "The system refuses the connection's credential"),
    "connection.blocked": ProblemKind(409, "The connection needs a person at the system"),
    "connection.paused": ProblemKind(409, "The connection is paused"),
    "connection.pending": ProblemKind(409, "The connection waits for credentials"),
    "connection.disconnected": ProblemKind(410, "The connection is disconnected"),
    "records.cursor_gone": ProblemKind(410, "The log of records does not go back to this cursor"),
    "credits.insufficient": ProblemKind(402, "There are not enough connection credits"),
    "upstream.rate_limited": ProblemKind(429, "The system asks to wait", retryable=True),
    "upstream.unavailable": ProblemKind(503, "The system does not answer", retryable=True),
    "upstream.error": ProblemKind(502, "The system answered with an error", retryable=True),
    "gateway.overloaded": ProblemKind(503, "Fieldgate cannot answer now", retryable=True),
    "gateway.internal": ProblemKind(500, "Something went wrong here", retryable=True),
}
_UNKNOWN = ProblemKind(409, "The request cannot be done now")


class Problem(BaseModel):
    """The body of every error. 401 and 403 always mean the caller's own token, never
    the system's credential.
    """

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str = Field(examples=sorted(CODES))
    request_id: str
    connection: str | None = None
    retryable: bool
    retry_after: float | None = Field(None, description="Seconds.")


def example(code: str) -> dict[str, object]:
    """What the OpenAPI document shows of a code."""
    kind = CODES[code]
    return Problem(
        title=kind.title,
        status=kind.status,
        detail=kind.title + ".",
        code=code,
        request_id="4f1c",
        retryable=kind.retryable,
    ).model_dump()


def answer(
    request: Request,
    code: str,
    detail: str,
    *,
    connection: str | None = None,
    retry_after: float | None = None,
) -> Response:
    """A problem as a response: a page where a browser asked for one, else JSON. Whether the application has
    begun with the request or not: what is refused before has no id of a session, only of the request.
    """
    kind = CODES.get(code, _UNKNOWN)
    body = Problem(
        title=kind.title,
        status=kind.status,
        detail=detail,
        code=code,
        request_id=request.state.request_id,
        connection=connection,
        retryable=kind.retryable,
        retry_after=retry_after,
    )
    headers = {"Retry-After": str(math.ceil(retry_after))} if retry_after is not None else {}
    if kind.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="fieldgate"'
    application = request.scope.get("app")  # not there where even the middleware has not begun
    page: Callable[[Request, Problem], Response] | None = (
        None if application is None else getattr(application.state, "problem_page", None)
    )
    if (
        page is not None
        and not request.scope["path"].startswith("/v1/")
        and "text/html" in request.headers.get("accept", "")
    ):
        response = page(request, body)
        response.headers.update(headers)
        return response
    return JSONResponse(body.model_dump(), status_code=kind.status, media_type=MEDIA_TYPE, headers=headers)


def install(app: FastAPI) -> None:
    """Answers every error with a Problem."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(RequestRefused, _refused)
    app.add_exception_handler(StoreError, _store)
    app.add_exception_handler(Exception, _internal)


_BY_STATUS = {
    401: "auth.unauthenticated",
    403: "auth.forbidden",
    404: "request.not_found",
    405: "request.method_not_allowed",
    413: "request.too_large",
}


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    visitor: Callable[[Request], Awaitable[object]] | None = getattr(request.app.state, "visitor", None)
    if visitor is not None and request.cookies:  # a page that there is not keeps the way to the others
        await visitor(request)
    code = _BY_STATUS.get(
        error.status_code, "request.invalid" if error.status_code < 500 else "gateway.internal"
    )
    response = answer(request, code, f"{error.detail}.")
    response.headers.update(error.headers or {})
    return response


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in found[:MAX_TOLD]]
    more = [] if len(found) <= MAX_TOLD else [f"and {len(found) - MAX_TOLD:,} more"]
    return answer(request, "request.invalid", "; ".join([*faults, *more]))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestRefused)
    return answer(request, error.code, str(error), connection=error.connection, retry_after=error.retry_after)


async def _store(request: Request, error: Exception) -> Response:
    if isinstance(error, StoreUnavailable):
        return answer(
            request, "gateway.overloaded", "The database is away; try again.", retry_after=UNAVAILABLE_SECONDS
        )
    if isinstance(error, StoreRejected):
        return answer(request, "request.invalid", "The request holds a value that cannot be stored.")
    return await _internal(request, error)


async def _internal(request: Request, error: Exception) -> Response:
    route = getattr(
        request.scope.get("route"), "path", None
    )  # never the path itself: a link's secret is part of it
    fault = note("request", f"{request.method} {route}", error)
    log.error(
        "http.request_crashed",
        method=request.method,
        route=route,
        error=type(error).__name__,
        reference=fault.reference,
    )
    return answer(request, "gateway.internal", "The log has it under this request id.")

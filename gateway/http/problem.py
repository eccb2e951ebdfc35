"""Errors as `application/problem+json` (RFC 9457), and the request id that every response carries."""

from __future__ import annotations

import re
import secrets

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = structlog.get_logger(__name__)

HEADER = "X-Request-ID"
_GIVEN = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_CODES = {404: "request.not_found", 405: "request.method_not_allowed", 422: "request.invalid"}


class Problem(BaseModel):
    """The body of every error. 401 and 403 always mean the caller's own token."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    connection: str | None = None
    retryable: bool
    retry_after: float | None = None


class RequestIds:
    """Gives every request an id (the caller's own, when it is a decent one), to the log lines and the response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Only HTTP; anything else passes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name.lower() == HEADER.lower().encode()), b"")
        request_id = given.decode() if _GIVEN.fullmatch(given) else secrets.token_hex(16)
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (HEADER.encode(), request_id.encode())]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await self._app(scope, receive, send_with_id)


def install(app: FastAPI) -> None:
    """Answers every error with a Problem."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _internal)


def answer(request: Request, status: int, *, code: str, title: str, detail: str, retryable: bool) -> JSONResponse:
    """A problem as a response."""
    body = Problem(title=title, status=status, detail=detail, code=code, request_id=request.state.request_id, retryable=retryable)
    return JSONResponse(body.model_dump(), status_code=status, media_type="application/problem+json")


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    retryable = error.status_code in (429, 503)
    code = _CODES.get(error.status_code, "request.invalid" if error.status_code < 500 else "gateway.internal")
    response = answer(request, error.status_code, code=code, title=str(error.detail), detail=f"{request.method} {request.url.path}", retryable=retryable)
    response.headers.update(error.headers or {})
    return response


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    faults = "; ".join(f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in error.errors())
    return answer(request, 422, code="request.invalid", title="The request is not valid", detail=faults, retryable=False)


async def _internal(request: Request, error: Exception) -> JSONResponse:
    log.error("http.request_crashed", method=request.method, path=request.url.path, error=type(error).__name__)
    return answer(request, 500, code="gateway.internal", title="Something went wrong here", detail="The log has it under this request id.", retryable=True)

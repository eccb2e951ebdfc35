"""What every request goes through before the application: an id, limits on its body, and the headers that
keep browsers careful.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import secrets
from collections.abc import Mapping

import structlog
from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import metrics, tracing
from gateway.http.entrance import Entrance
from gateway.http.problem import CODES, answer

HEADER = "X-Request-ID"
MAX_BODY_BYTES = 1 << 20
BODY_SECONDS = 20.0
_GIVEN = re.compile(r"[A-Za-z0-9._-]{1,64}")

UNTRACED = ("/healthz", "/readyz", "/metrics", "/static/", "/live")
"""What asks every few seconds, or stays for hours."""

_PROCESS = secrets.token_hex(8)
_NUMBERS = itertools.count(1)
"""An id has to be unique, not secret: random numbers of the system's cost a call of the kernel a request."""

SECURITY = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}

_ID = HEADER.lower().encode()
_SECURITY = [(name.lower().encode(), value.encode()) for name, value in SECURITY.items()]
_HSTS = (b"strict-transport-security", b"max-age=31536000")
"""Sent where `http.public_url` is https: a browser that was here once does not come by plain HTTP again."""

_OURS = {_HSTS[0], _ID, *(name for name, _ in _SECURITY)}


def request_id(given: str) -> str:
    """The caller's own, when it is a decent one, or a new one."""
    return given if _GIVEN.fullmatch(given) else f"{_PROCESS}{next(_NUMBERS):016x}"


def careful_headers(headers: Mapping[str, str]) -> tuple[tuple[bytes, bytes], ...]:
    """These (their names in small letters) and those of `SECURITY`, as ASGI takes them."""
    return (*((name.encode(), value.encode()) for name, value in headers.items()), *_SECURITY)


class RequestIds:
    """Gives every request an id (the caller's own, when it is a decent one), to the log lines and the
    response; and the headers of `SECURITY`. `application`: whose pages tell a browser what is refused before
    the application has it.
    """

    def __init__(self, app: ASGIApp, *, https: bool, application: FastAPI | None = None) -> None:
        self._app, self._application = app, application
        self._headers = [*_SECURITY, _HSTS] if https else _SECURITY

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Only HTTP; anything else passes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        identifier = request_id(Headers(scope=scope).get(HEADER, ""))
        scope.setdefault("state", {})["request_id"] = identifier
        if self._application is not None:
            scope["app"] = self._application

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(name, value) for name, value in message.get("headers", ()) if name not in _OURS]
                if not any(name == b"cache-control" for name, _ in headers):
                    headers.append((b"cache-control", b"no-store"))
                message["headers"] = [*headers, (_ID, identifier.encode()), *self._headers]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=identifier):
            if tracing.is_on() and not scope["path"].startswith(UNTRACED):
                await self._traced(scope, receive, send_with_headers, identifier)
            else:
                await self._app(scope, receive, send_with_headers)

    async def _traced(self, scope: Scope, receive: Receive, send: Send, identifier: str) -> None:
        """The request as a span. It is named by its route: an address may hold the secret of a link."""
        status = 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        parent = Headers(scope=scope).get(tracing.TRACEPARENT)
        with tracing.span("http.request", parent=parent, method=scope["method"], request_id=identifier):
            await self._app(scope, receive, noting)
            route = getattr(scope.get("route"), "path", None)
            tracing.add(route=route if isinstance(route, str) else "none", status=status)


class Hosts:
    """Answers only to the gateway's own names: a page of another site cannot have its name lead here and
    read.
    """

    def __init__(self, app: ASGIApp, entrance: Entrance) -> None:
        self._app, self._entrance = app, entrance

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Only HTTP; anything else passes."""
        if scope["type"] == "http" and not self._entrance.is_known_host(scope):
            metrics.HTTP_REFUSED.labels("host").inc()
            detail = (
                "One Host header is needed, with a name of this gateway: the host of http.public_url, one of "
                "http.allowed_hosts, or an IP address."
            )
            await _refuse(scope, receive, send, "request.misdirected", detail)
            return
        await self._app(scope, receive, send)


class BodyLimit:
    """Reads the body before the application runs: at most `MAX_BODY_BYTES`, within `BODY_SECONDS`. What was
    cut off on its way is not acted upon: half a form may ask for more than the whole of it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Only HTTP; anything else passes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdecimal() and int(declared) > MAX_BODY_BYTES:
            await _refuse(scope, receive, send, "request.too_large")
            return
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _read(receive)
        except TimeoutError:
            await _refuse(scope, receive, send, "request.timeout")
            return
        except ClientDisconnect:
            return
        if body is None:
            await _refuse(scope, receive, send, "request.too_large")
            return
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()  # the disconnect
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)


async def _read(receive: Receive) -> bytes | None:
    """The whole body; None where it is too large. Raises ClientDisconnect where the client is gone before."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            return None
        if not message.get("more_body", False):
            return bytes(body)


async def _refuse(scope: Scope, receive: Receive, send: Send, code: str, detail: str | None = None) -> None:
    refused = answer(Request(scope), code, f"{CODES[code].title}." if detail is None else detail)
    refused.headers["Connection"] = "close"
    await refused(scope, receive, send)

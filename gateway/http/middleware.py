"""What every request goes through before the application: an id, limits on its body, and the headers that keep browsers careful."""

from __future__ import annotations

import asyncio
import re
import secrets

import orjson
import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.http.problem import MEDIA_TYPE, example

HEADER = "X-Request-ID"
MAX_BODY_BYTES = 1 << 20
BODY_SECONDS = 20.0
READS_AT_ONCE = 1
TURN_SECONDS = 5.0
_GIVEN = re.compile(r"[A-Za-z0-9._-]{1,64}")

SECURITY = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}

_ID = HEADER.lower().encode()
_SECURITY = [(name.lower().encode(), value.encode()) for name, value in SECURITY.items()]
_OURS = {_ID, *(name for name, _ in _SECURITY)}


class RequestIds:
    """Gives every request an id (the caller's own, when it is a decent one), to the log lines and the response; and the headers of `SECURITY`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Only HTTP; anything else passes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        request_id = given if _GIVEN.fullmatch(given) else secrets.token_hex(16)
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(name, value) for name, value in message.get("headers", ()) if name not in _OURS]
                if not any(name == b"cache-control" for name, _ in headers):
                    headers.append((b"cache-control", b"no-store"))
                message["headers"] = [*headers, (_ID, request_id.encode()), *_SECURITY]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await self._app(scope, receive, send_with_headers)


class Turns:
    """Reads of the API take turns, so that a burst of them does not stand between ingest and the loop they share.

    Not what asks a system itself. A read that has waited too long is told to come back.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._turns = asyncio.Semaphore(READS_AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Only reads of the API; anything else passes."""
        if scope["type"] != "http" or scope["method"] != "GET" or not scope["path"].startswith("/v1/") or scope["path"].endswith("/meters"):
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await self._turns.acquire()
        except TimeoutError:
            await _refuse(scope, send, "gateway.overloaded")
            return
        try:
            await self._app(scope, receive, send)
        finally:
            self._turns.release()


class BodyLimit:
    """Reads the body before the application runs: at most `MAX_BODY_BYTES`, within `BODY_SECONDS`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Only HTTP; anything else passes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdecimal() and int(declared) > MAX_BODY_BYTES:
            await _refuse(scope, send, "request.too_large")
            return
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _read(receive)
        except TimeoutError:
            await _refuse(scope, send, "request.timeout")
            return
        if body is None:
            await _refuse(scope, send, "request.too_large")
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
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return bytes(body)
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            return None
        if not message.get("more_body", False):
            return bytes(body)


async def _refuse(scope: Scope, send: Send, code: str) -> None:
    problem = {**example(code), "request_id": scope["state"]["request_id"]}
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": problem["status"], "headers": headers})
    await send({"type": "http.response.body", "body": orjson.dumps(problem)})

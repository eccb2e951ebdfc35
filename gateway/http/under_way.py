"""Requests that are under way when the process stops. Those that go on waiting, as for a database that does
not answer, are answered 503 and ended; the server would cut them off, with a trace in the log for each.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import clock
from gateway.http.middleware import HEADER, careful_headers
from gateway.http.problem import UNAVAILABLE_SECONDS, answer
from gateway.store.turns import begin_work

AGAIN_SECONDS = 0.1
"""What is cancelled may wait once more on its way out, to give its session back to the pool."""


class UnderWay:
    """Of one process. It is around each application that is served."""

    def __init__(self) -> None:
        self._requests: dict[asyncio.Task[Any], _Pending] = {}

    def through(self, app: ASGIApp) -> ASGIApp:
        """The application, with its requests known."""

        async def known(scope: Scope, receive: Receive, send: Send) -> None:
            begin_work()
            task, request = asyncio.current_task(), _Pending(scope, send)
            assert task is not None
            self._requests[task] = request
            try:
                await app(scope, receive, request.send)
            except asyncio.CancelledError:
                if not request.is_refused:
                    raise
            finally:
                del self._requests[task]

        return known

    async def end(self, *, answered_seconds: float, ended_seconds: float) -> None:
        """Gives them time to be answered; then refuses those whose answer has not begun, and gives them time
        to end.
        """
        until = clock.monotonic() + answered_seconds
        while self._requests and (left := until - clock.monotonic()) > 0:
            await asyncio.wait(set(self._requests), timeout=left)
        for request in list(self._requests.values()):
            await request.refuse()
        until += ended_seconds
        while (waiting := self._refused()) and clock.monotonic() < until:
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting, timeout=AGAIN_SECONDS)

    def _refused(self) -> set[asyncio.Task[Any]]:
        return {task for task, request in self._requests.items() if request.is_refused}


class _Pending:
    """One of them. Once it is refused the application's own answer goes nowhere."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope, self._send = scope, send
        self._has_begun = False
        self.is_refused = False

    async def send(self, message: Message) -> None:
        """The application's."""
        if not self.is_refused:
            self._has_begun = True
            await self._send(message)

    async def refuse(self) -> None:
        """Nothing happens where the answer has begun."""
        if self._has_begun:
            return
        self.is_refused = True
        self._scope.setdefault("state", {}).setdefault("request_id", "")
        refused = answer(
            Request(self._scope),
            "gateway.overloaded",
            "Fieldgate stops before it could answer; try again.",
            retry_after=UNAVAILABLE_SECONDS,
        )
        identifier = self._scope["state"]["request_id"]
        for name, value in {"Cache-Control": "no-store", "Connection": "close", HEADER: identifier}.items():
            refused.headers[name] = value
        headers = [*refused.raw_headers, *careful_headers({})]
        await self._send({"type": "http.response.start", "status": refused.status_code, "headers": headers})
        await self._send({"type": "http.response.body", "body": refused.body})

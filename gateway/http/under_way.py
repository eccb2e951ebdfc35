"""Requests that are under way when the process stops. Those that go on waiting, as for a database that does
not answer, are answered 503 and ended; the server would cut them off, with a trace in the log for each.
"""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import clock
from gateway.http.middleware import careful_headers
from gateway.http.problem import MEDIA_TYPE, UNAVAILABLE_SECONDS, example
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
        problem = {
            **example("gateway.overloaded"),
            "detail": "Fieldgate stops before it could answer; try again.",
            "request_id": self._scope.get("state", {}).get("request_id", ""),
            "retry_after": UNAVAILABLE_SECONDS,
        }
        body = orjson.dumps(problem)
        headers = {
            "content-type": MEDIA_TYPE,
            "content-length": str(len(body)),
            "retry-after": f"{UNAVAILABLE_SECONDS:.0f}",
            "cache-control": "no-store",
            "connection": "close",
        }
        await self._send({"type": "http.response.start", "status": 503, "headers": careful_headers(headers)})
        await self._send({"type": "http.response.body", "body": body})

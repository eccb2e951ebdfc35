"""The HTTP/1.1 protocol of uvicorn with limits: how many clients are connected, in all and from one address,
and how long each may take over the head of a request and over reading an answer.

The idea: a client whose request has not arrived whole costs a socket and little else, so its socket may be
taken back at any moment. When a limit is reached the connection that has been idle for longest is closed for
the new one. Only where every connection is in the middle of a request is the new one refused.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway import metrics
from gateway.http.entrance import origin_of

HEAD_SECONDS = 10.0
"""From the connection, or the first byte after an answer, to the end of the request's head."""

MAX_HEAD_BYTES = 64 << 10
MAX_PIPELINED = 8
READ_SECONDS = 30.0
"""How long a client may leave an answer unread before it is given up."""

_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"
)


class Clients:
    """The connections that are open. `idle` is in the order in which they became idle."""

    def __init__(self, *, limit: int, limit_per_address: int) -> None:
        self._limit, self._limit_per_address = limit, limit_per_address
        self._open: dict[LimitedProtocol, str] = {}
        self._idle: dict[LimitedProtocol, None] = {}
        self._by_address: Counter[str] = Counter()
        self._none = asyncio.Event()
        self._none.set()

    def admit(self, client: LimitedProtocol, address: str) -> bool:
        """Whether there is room for it; makes room by closing the connection that is idle for longest."""
        if self._by_address[address] >= self._limit_per_address and not self._make_room(address):
            return False
        if len(self._open) >= self._limit and not self._make_room(None):
            return False
        self._open[client] = address
        self._none.clear()
        self._by_address[address] += 1
        self._idle[client] = None
        return True

    def note_busy(self, client: LimitedProtocol) -> None:
        """Its request is there, and waits for its answer."""
        self._idle.pop(client, None)

    def note_sending(self, client: LimitedProtocol) -> None:
        """The head of its request is there: those who have sent nothing for longer give way before it."""
        if client in self._idle:
            del self._idle[client]
            self._idle[client] = None  # the last in the order

    def note_idle(self, client: LimitedProtocol) -> None:
        """It asks nothing now."""
        if client in self._open:
            self._idle[client] = None

    def forget(self, client: LimitedProtocol) -> None:
        """It is closed. Idempotent."""
        address = self._open.pop(client, None)
        self._idle.pop(client, None)
        if address is not None:
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]
        if not self._open:
            self._none.set()

    async def gone(self) -> None:
        """Returns when none is open."""
        await self._none.wait()

    def abort(self) -> None:
        """Closes all of them, whatever is on its way."""
        for client in list(self._open):
            client.transport.abort()

    def _make_room(self, address: str | None) -> bool:
        oldest = next((c for c in self._idle if address is None or self._open[c] == address), None)
        if oldest is None:
            return False
        self.forget(oldest)
        metrics.HTTP_REFUSED.labels("idle").inc()
        oldest.transport.abort()  # at worst the end of an answer that it reads slowly
        return True


class LimitedProtocol(HttpToolsProtocol):
    """One connection. `clients` is set by `limited`."""

    clients: Clients

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_timer: asyncio.TimerHandle | None = None
        self._read_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._in_body = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuses where there is no room; else the time for the first head begins."""
        super().connection_made(transport)
        if not self.clients.admit(self, _origin(transport)):
            metrics.HTTP_REFUSED.labels("connections").inc()
            transport.write(_BUSY)
            transport.close()
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Frees its place."""
        self.clients.forget(self)
        self._stop(self._head_timer)
        self._stop(self._read_timer)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bounds the head in bytes and in time: a byte a minute keeps no connection."""
        if self.transport.is_closing():
            return
        if not self._in_body:
            self._head_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():  # bytes that came before a refusal
            return
        if not self._in_body and self._head_bytes > MAX_HEAD_BYTES:
            if self._is_idle:
                self.send_400_response("The head of this request is too large.")
            else:
                self.transport.abort()  # an answer is under way: nothing can be said in the middle of it
        elif self._is_idle and self._head_timer is None:
            self._await_head()

    def on_headers_complete(self) -> None:
        """The application's turn: its own limits hold from here."""
        self._in_body = True
        self._stop(self._head_timer)
        self._head_timer, self._head_bytes = None, 0
        self.clients.note_sending(self)
        if len(self.pipeline) >= MAX_PIPELINED:
            self.transport.abort()
            return
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """What follows is the head of another request. Busy only from here on: a body that does not come
        would keep a place from those that ask for something.
        """
        self._in_body, self._head_bytes = False, 0
        super().on_message_complete()
        if self.cycle is not None and not self.cycle.response_complete:
            self.clients.note_busy(self)

    def on_response_complete(self) -> None:
        """Idle again, unless another request waits in its pipeline."""
        super().on_response_complete()
        if self._is_idle:
            self.clients.note_idle(self)

    def pause_writing(self) -> None:
        """The client does not read: it may for a while."""
        super().pause_writing()
        if self._read_timer is None:
            self._read_timer = self.loop.call_later(READ_SECONDS, self._give_up)

    def resume_writing(self) -> None:
        """The client reads."""
        self._stop(self._read_timer)
        self._read_timer = None
        super().resume_writing()

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or (self.cycle.response_complete and not self.pipeline)

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _give_up(self) -> None:
        metrics.HTTP_REFUSED.labels("slow").inc()
        self.transport.abort()

    @staticmethod
    def _stop(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()


def limited(clients: Clients) -> type[LimitedProtocol]:
    """The protocol for a server whose connections `clients` counts: uvicorn takes a class, not an object."""
    return type("Protocol", (LimitedProtocol,), {"clients": clients})


def _origin(transport: asyncio.Transport) -> str:
    peer = transport.get_extra_info("peername")
    return origin_of(str(peer[0])) if peer else "unknown"

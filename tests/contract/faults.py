"""A raw TCP server that answers HTTP as badly as a fault asks for, and a TCP relay that can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

Reply = Callable[[asyncio.StreamWriter], Awaitable[None]]
DATE = "Date: Mon, 02 Nov 2026 10:00:00 GMT\r\n"


def answer(
    status: str, body: bytes = b"", *, headers: str = "", content_type: str = "application/json"
) -> Reply:
    """A correct answer."""

    async def reply(writer: asyncio.StreamWriter) -> None:
        head = (
            f"HTTP/1.1 {status}\r\n{DATE}Content-Type: {content_type}\r\nContent-Length:"
            f" {len(body)}\r\n{headers}\r\n"
        )
        writer.write(head.encode() + body)
        await writer.drain()

    return reply


async def never(writer: asyncio.StreamWriter) -> None:
    """Takes the request and says nothing until the connection is gone."""
    await writer.wait_closed()


async def cut(writer: asyncio.StreamWriter) -> None:
    """Takes the request and resets the connection."""
    writer.transport.abort()


async def cut_mid_body(writer: asyncio.StreamWriter) -> None:
    """Promises 500 bytes, sends 20, and leaves."""
    writer.write(
        f"HTTP/1.1 201 Created\r\n{DATE}Content-Type: application/json\r\nContent-Length: 500\r\n\r\n".encode()
        + b'[{"meterId": 1, "val'
    )
    await writer.drain()
    writer.transport.abort()


async def endless(writer: asyncio.StreamWriter) -> None:
    """A body without an end, as fast as the client reads."""
    writer.write(
        f"HTTP/1.1 201 Created\r\n{DATE}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    )
    while not writer.is_closing():
        writer.write(b"10000\r\n" + b" " * 65536 + b"\r\n")
        await writer.drain()


BOMB = gzip.compress(b" " * (64 << 20), compresslevel=1)


class FaultServer:
    """Answers GET and HEAD with `on_get` and everything else with `on_other`; counts what it was asked."""

    def __init__(self, *, on_get: Reply, on_other: Reply) -> None:
        self.on_get, self.on_other = on_get, on_other
        self.requests: list[bytes] = []
        self._serving: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for writer in self._serving.values():
            writer.transport.abort()
        await asyncio.gather(*self._serving)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving[task] = writer
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (
                        int(line.split(b":")[1])
                        for line in head.lower().split(b"\r\n")
                        if line.startswith(b"content-length:")
                    ),
                    0,
                )
                self.requests.append(head + await reader.readexactly(length))
                await (self.on_get if head.startswith((b"GET ", b"HEAD ")) else self.on_other)(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            del self._serving[task]


class Relay:
    """Forwards TCP to a port until `cut()`, which resets every connection in both directions."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._writers: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        port = self._server.sockets[0].getsockname()[1]
        assert isinstance(port, int)
        return port

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        self._writers |= {writer, far_writer}
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            pump = asyncio.create_task(_pump(source, sink))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    sink.close()

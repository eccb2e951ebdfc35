"""A TCP proxy before a database that loses answers, hangs and cuts, so that a statement is done and nobody
hears of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Literal, Self

Mode = Literal["well", "lost", "hung", "refused"]
"""`lost`: what the server says is dropped. `hung`: nothing passes in either direction, until the mode is
another.
"""


class Cutter:
    """Stands before a port on loopback."""

    def __init__(self, port: int) -> None:
        self.mode: Mode = "well"
        self.lost_bytes = 0
        self._target = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Ends every connection."""
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self.mode == "refused":
                return
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers |= {writer, far_writer}
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump(reader, far_writer, answers=False))
                    group.create_task(self._pump(far_reader, writer, answers=True))
            finally:
                far_writer.transport.abort()
                self._writers -= {writer, far_writer}
        except* (OSError, asyncio.CancelledError):
            pass  # cancelled at the end of the campaign, when nobody waits for it
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        while chunk := await reader.read(65536):
            while self.mode == "hung":
                await asyncio.sleep(0.05)
            if answers and self.mode == "lost":
                self.lost_bytes += len(chunk)
                continue
            writer.write(chunk)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.transport.abort()

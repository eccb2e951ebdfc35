"""Keeps one server process running: ends with us, is started again when it dies, and is given up when it will
not stay.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from structlog.typing import FilteringBoundLogger

from gateway import clock
from gateway.model.errors import FieldgateError

STEADY_SECONDS = 10.0
MAX_RESTARTS = 5
STOP_SECONDS = 30.0


class ServerFailed(FieldgateError):
    """An embedded server cannot be kept running."""


class Server(Protocol):
    """A server that can be started any number of times."""

    name: str
    stop_signal: signal.Signals

    async def start(self) -> subprocess.Popen[bytes]:
        """Returns when it serves. Raises FieldgateError."""
        ...


class Supervisor:
    """Runs a server for as long as the context is open."""

    def __init__(self, server: Server, log: FilteringBoundLogger, failed: asyncio.Future[None]) -> None:
        self._server = server
        self._log = log
        self._failed = failed
        self._process: subprocess.Popen[bytes]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Started when entered, watched, stopped and waited for when left."""
        self._process = await self._server.start()
        self._log.info("embedded.server_started", server=self._server.name, pid=self._process.pid)
        watching = asyncio.create_task(self._watch(), name=f"watch {self._server.name}")
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.wait({watching})
            await stop(self._process, self._server.stop_signal)
            self._log.info("embedded.server_stopped", server=self._server.name)

    async def _watch(self) -> None:
        restarts, started = 0, clock.monotonic()
        while True:
            code = await exited(self._process)
            restarts = 1 if clock.monotonic() - started > STEADY_SECONDS else restarts + 1
            self._log.error(
                "embedded.server_died", server=self._server.name, exit_code=code, restarts=restarts
            )
            try:
                if restarts > MAX_RESTARTS:
                    raise ServerFailed(
                        f"{self._server.name} died {restarts} times in a row; see its log in the data"
                        " directory"
                    )
                await asyncio.sleep(0.1 * 2**restarts)
                started = clock.monotonic()
                self._process = await self._server.start()
            except FieldgateError as error:
                if not self._failed.done():
                    self._failed.set_exception(error)
                return
            self._log.info("embedded.server_started", server=self._server.name, pid=self._process.pid)


async def exited(process: subprocess.Popen[bytes]) -> int:
    """The exit code, when it comes."""
    while (code := process.poll()) is None:
        await asyncio.sleep(0.1)
    return code


@asynccontextmanager
async def starting(process: subprocess.Popen[bytes], number: signal.Signals) -> AsyncIterator[None]:
    """Stops the process when the wait for its readiness fails or is cancelled: nobody else knows it yet."""
    try:
        yield
    except BaseException:
        await stop(process, number)
        raise


async def stop(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Asks it to end; kills it when it has not after half a minute."""
    if process.poll() is None:
        process.send_signal(number)
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await exited(process)
    except TimeoutError:
        process.kill()
        await exited(process)

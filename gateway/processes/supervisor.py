"""Keeps the HTTP process running beside the daemon, on a socket that the daemon holds, and answers what it
asks of the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from gateway import clock
from gateway.model.address import to_listen
from gateway.model.errors import ConfigError
from gateway.processes import counters
from gateway.processes.channel import Channel, Document, packed
from gateway.processes.forked import Forked
from gateway.processes.parent import apart
from gateway.processes.readiness import Readiness
from gateway.settings import HttpSettings, Settings

log = structlog.get_logger(__name__)

PROGRAM = """import gc, signal, socket, sys
gc.disable()
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
from gateway.http_process import main
gc.enable()
main(socket.socket(fileno=int(sys.argv[1])))
"""
"""Signals are ignored before anything is imported. They cannot be before that: libuv sets them back in a new
process. What importing makes is no garbage: looking for some takes a sixth of the time.
"""

BACKLOG = 2048
STEADY_SECONDS = 30.0
"""A process that lived for longer is started again at once; the others after a pause that doubles."""

MAX_PAUSE_SECONDS = 30.0
STOP_SECONDS = 90.0
"""For requests that are being answered, and for a token that is being refreshed."""

IN_USE_SECONDS = 10.0
"""The process of a daemon that was killed leaves the port as soon as it learns of it, which takes seconds on
a machine that is busy.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What the process is told first on its line, after it was given the sockets that listen."""

    settings: Settings
    owner: str


class HttpProcess:
    """Health, readiness, metrics, the API and the pages at `http.listen`, answered by a process of its own.

    Whatever is asked there, and however much, takes no time of the loop that acknowledges telemetry (ADR 16).
    When the process dies it is started again; requests wait meanwhile.
    """

    def __init__(
        self,
        settings: Settings,
        readiness: Readiness,
        *,
        owner: str,
        listening: Sequence[socket.socket],
        forked: Forked | None = None,
    ) -> None:
        """`listening`: that of `http.listen`, and that of `http.metrics_listen` where there is one. `forked`:
        the first process, which is there and waits; whoever takes its place starts as a program.
        """
        self._listening, self._forked = listening, forked
        self._settings, self._readiness, self._owner = settings, readiness, owner
        self._serving = False
        self._stopping = asyncio.Event()
        self._channel: Channel | None = None

    def serve(self) -> None:
        """From now on the API and the pages answer. Before, and while there is no database, they say that the
        gateway starts.
        """
        self._serving = True
        if self._channel is not None:
            self._channel.send({"serve": True})

    def know(self, settings: Settings) -> None:
        """The settings after a reload: the process that runs is told, one that starts has them."""
        self._settings = settings
        if self._channel is not None:
            self._channel.send({"settings": packed(settings)})

    async def run(self) -> None:
        """Until `stop` or cancellation."""
        listening = self._listening
        for one in listening:
            address, port = one.getsockname()[:2]
            log.info("http.listening", address=address, port=port)
        pause = 0.0
        while not self._stopping.is_set():
            started = clock.monotonic()
            try:
                code = await self._one(listening)
            except OSError as error:  # there is no process or no memory to be had just now
                log.warning("http.process_not_started", detail=str(error))
                code = None
            if self._stopping.is_set():
                return
            pause = (
                0.1
                if clock.monotonic() - started > STEADY_SECONDS
                else min(max(2 * pause, 0.1), MAX_PAUSE_SECONDS)
            )
            log.error(
                "http.process_died",
                exit_code=code,
                again_in_seconds=pause,
                advice="its last words are in this log; telemetry is not touched by it",
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def stop(self) -> None:
        """What was asked is answered first, for a few seconds at most. `run` returns when that is done."""
        self._stopping.set()

    async def _one(self, listening: Sequence[socket.socket]) -> int | None:
        """One process, from its start to its end; its exit code."""
        process, line = (self._forked, self._forked.line) if self._forked else await _executed()
        self._forked = None
        with contextlib.suppress(OSError):  # it is gone already, which its line says as well
            socket.send_fds(line, [b"\0"], [one.fileno() for one in listening])
        channel = self._channel = await Channel.over(line)
        channel.send({"start": packed(Start(settings=self._settings, owner=f"{self._owner}/http"))})
        if self._serving:
            channel.send({"serve": True})
        conversing, stopped = (
            asyncio.create_task(self._converse(channel)),
            asyncio.create_task(self._stopping.wait()),
        )
        try:
            await asyncio.wait({conversing, stopped}, return_when=asyncio.FIRST_COMPLETED)
            channel.send({"stop": True})
            await _ended(process)
            await conversing
        finally:
            self._channel = None
            channel.close()
            stopped.cancel()
            conversing.cancel()
            await asyncio.wait({conversing, stopped})
            await _ended(process)  # by itself: it has lost its line
        return process.returncode

    async def _converse(self, channel: Channel) -> None:
        """Answers until the process is gone."""
        added = counters.AddedCounts()

        async def answer(asked: Document) -> None:
            channel.send({"answer": await self._answer(asked, added), "number": asked["number"]})

        async with asyncio.TaskGroup() as answering:
            while (asked := await channel.receive()) is not None:
                answering.create_task(answer(asked))

    async def _answer(self, asked: Document, added: counters.AddedCounts) -> object:
        match asked["ask"]:
            case "alive":
                return None
            case "checks":
                return await self._readiness.checks()
            case "exposition":
                added.add(asked["counted"])
                return await self._readiness.exposition(asked["accept"])
            case other:
                raise AssertionError(other)


class _Child(Protocol):
    """One that we started, in either way."""

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        ...

    async def wait(self) -> int:
        """Its exit code."""
        ...

    def kill(self) -> None:
        """By SIGKILL."""
        ...


async def _executed() -> tuple[_Child, socket.socket]:
    """The program, started, and our end of its line."""
    ours, theirs = socket.socketpair()
    with theirs, contextlib.ExitStack() as unless_started:
        unless_started.enter_context(ours)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-c", PROGRAM, str(theirs.fileno())),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            preexec_fn=apart(),
        )
        unless_started.pop_all()
    return process, ours


async def _ended(process: _Child) -> None:
    """Waits until it has ended; kills it when it will not."""
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def listen_all(http: HttpSettings) -> list[socket.socket]:
    """What `HttpProcess` is given. Raises ConfigError, and then holds no port."""
    with contextlib.ExitStack() as unless_all:
        sockets = [unless_all.enter_context(await listen(http.listen))]
        if http.metrics_listen is not None:
            sockets.append(
                unless_all.enter_context(await listen(http.metrics_listen, name="http.metrics_listen"))
            )
        unless_all.pop_all()
        return sockets


async def listen(address: str, *, name: str = "http.listen") -> socket.socket:
    """Raises ConfigError for what is no address, and for one where another listens."""
    try:
        host, port = to_listen(address)
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from error
    until = clock.monotonic() + IN_USE_SECONDS
    while True:
        listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setblocking(False)
        try:
            listening.bind((host, port))
            listening.listen(BACKLOG)
        except OSError as error:
            listening.close()
            if clock.monotonic() < until and error.errno == errno.EADDRINUSE:
                await asyncio.sleep(0.1)
                continue
            raise ConfigError(
                f"{name}: cannot listen on {address}: {error.strerror or error}; "
                f"stop what listens there, or set {name} to another address"
            ) from error
        return listening

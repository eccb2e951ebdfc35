"""Serves HTTP with uvicorn inside a loop that is already there; signals stay with whoever runs it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from gateway.http.application import build, guarded, observing
from gateway.http.auth import Mounted
from gateway.http.entrance import Entrance
from gateway.http.ports import Observed
from gateway.http.protocol import Clients, limited
from gateway.http.services import Services
from gateway.http.under_way import UnderWay
from gateway.settings import HttpSettings

STOP_SECONDS = 3
"""What the server lets what is under way have; all of it ends by itself before, within these:"""

ANSWERED_SECONDS = 2.0
ENDED_SECONDS = 0.5
KEEP_ALIVE_SECONDS = 15
TICK_SECONDS = 1.0
MAX_SCRAPERS = 50
"""Connections to `http.metrics_listen`."""


class _Server(uvicorn.Server):
    """Wakes up once a second (it makes the date of answers) and not ten times, and when it has to stop."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """`serve` ends when what is under way has ended."""
        self.should_exit = True
        self._stopping.set()

    async def main_loop(self) -> None:
        """As uvicorn's own, whose tick makes a date each tenth time."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    await self._stopping.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals to whoever runs it."""
        yield


class HttpServer:
    """Health, readiness, metrics, the API and the pages on a socket that listens."""

    def __init__(
        self,
        listening: socket.socket,
        observed: Observed,
        http: HttpSettings,
        *,
        metrics_listening: socket.socket | None = None,
    ) -> None:
        self._mounted = Mounted(Entrance(http))
        self._under_way, self._stopping = UnderWay(), asyncio.Event()
        clients = Clients(limit=http.max_connections, limit_per_address=http.max_connections_per_address)
        self._clients = [clients]
        self._servers = [(self._server(guarded(build(observed, self._mounted)), clients), listening)]
        if metrics_listening is not None:
            clients = Clients(limit=MAX_SCRAPERS, limit_per_address=MAX_SCRAPERS)
            self._clients.append(clients)
            self._servers.append((self._server(observing(observed), clients), metrics_listening))

    def _server(self, app: ASGIApp, clients: Clients) -> _Server:
        config = uvicorn.Config(
            self._under_way.through(app),
            http=limited(clients),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            proxy_headers=False,  # gateway.http.entrance reads them, where the operator trusts the proxy
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        return _Server(config)

    def serve(self, services: Services) -> None:
        """From now on the API and the pages answer. Before, they say that the gateway starts."""
        self._mounted.services = services

    async def run(self) -> None:
        """Until `stop` or cancellation."""
        async with asyncio.TaskGroup() as group:
            for server, listening in self._servers:
                group.create_task(self._run_one(server, listening))
            group.create_task(self._end())

    @staticmethod
    async def _run_one(server: _Server, listening: socket.socket) -> None:
        with listening:
            await server.serve(sockets=[listening])

    async def _end(self) -> None:
        """Ends what is under way once it has to stop."""
        await self._stopping.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWERED_SECONDS + ENDED_SECONDS):
                await self._under_way.end(answered_seconds=ANSWERED_SECONDS, ended_seconds=ENDED_SECONDS)
                for clients in self._clients:
                    await clients.gone()
        for clients in self._clients:
            clients.abort()

    def stop(self) -> None:
        """Answers what was asked, for a few seconds at most; then `run` ends."""
        if self._mounted.services is not None:
            self._mounted.services.live.leave()
        for server, _ in self._servers:
            server.stop()
        self._stopping.set()

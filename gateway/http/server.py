"""Serves HTTP with uvicorn inside our own loop; signals stay ours. What is ready is `Readiness`'s to say."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator

import structlog
import uvicorn

from gateway.http.application import build, guarded
from gateway.http.auth import Mounted
from gateway.http.ports import Services
from gateway.model.errors import ConfigError, StoreError
from gateway.settings import Settings
from gateway.store import migrate
from gateway.store.pool import Database

log = structlog.get_logger(__name__)

STOP_SECONDS = 3
KEEP_ALIVE_SECONDS = 15


class Readiness:
    """Whether the parts that serve are there. Begins unready: the daemon may be waiting for its database."""

    def __init__(self) -> None:
        self._database: Database | None = None
        self._connected: Callable[[], bool] = lambda: False
        self._draining = False

    def serve(self, database: Database, connected: Callable[[], bool]) -> None:
        """From now on these are asked. `connected` says whether the broker's session is up."""
        self._database, self._connected = database, connected

    def draining(self) -> None:
        """Unready for good: no new work is taken."""
        self._draining = True

    async def check(self) -> dict[str, bool]:
        """What is well, by name; ready when all are."""
        database = self._database is not None and await self._database.is_ready()
        migrations = False
        if self._database is not None and database:
            with contextlib.suppress(StoreError):
                migrations = await migrate.is_current(self._database)
        return {"broker": self._connected(), "database": database, "migrations": migrations, "accepting": not self._draining}


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals to the daemon."""
        yield


class HttpServer:
    """Health, readiness, metrics, the API and the pages at `http.listen`."""

    def __init__(self, settings: Settings, readiness: Readiness) -> None:
        self._listen = settings.http.listen
        self._mounted = Mounted()
        config = uvicorn.Config(
            guarded(build(readiness.check, self._mounted)),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        self._server = _Server(config)
        self._ended = asyncio.Event()
        self._ended.set()
        self.port = 0

    def serve(self, services: Services) -> None:
        """From now on the API and the pages answer. Before, and while there is no database, they say that the gateway starts."""
        self._mounted.services = services

    async def run(self) -> None:
        """Until `stop` or cancellation. Raises ConfigError when the address cannot be listened on."""
        listening = _listen(self._listen)
        self.port = listening.getsockname()[1]
        log.info("http.listening", address=self._listen, port=self.port)
        self._ended.clear()
        try:
            await self._server.serve(sockets=[listening])
        finally:
            listening.close()
            self._ended.set()

    async def stop(self) -> None:
        """Answers what was asked, for a few seconds at most; returns when `run` has ended."""
        self._server.should_exit = True
        await self._ended.wait()


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"http.listen: {address!r} is no address; expected host:port, such as 127.0.0.1:8080 or [::1]:8080")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, int(port)))
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"http.listen: cannot listen on {address}: {error.strerror or error}; stop what listens there, or set http.listen to another address"
        ) from error
    listening.setblocking(False)
    return listening

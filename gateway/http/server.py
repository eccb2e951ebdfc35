"""Serves HTTP with uvicorn inside a loop that is already there; signals stay with whoever runs it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import uvicorn

from gateway.http.application import build, guarded
from gateway.http.auth import Mounted
from gateway.http.ports import Observed, Services

STOP_SECONDS = 3
KEEP_ALIVE_SECONDS = 15


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals to whoever runs it."""
        yield


class HttpServer:
    """Health, readiness, metrics, the API and the pages on a socket that listens."""

    def __init__(self, listening: socket.socket, observed: Observed) -> None:
        self._listening = listening
        self._mounted = Mounted()
        config = uvicorn.Config(
            guarded(build(observed, self._mounted)),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            proxy_headers=False,  # nothing here asks who the client is, or by which scheme it came
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        self._server = _Server(config)

    def serve(self, services: Services) -> None:
        """From now on the API and the pages answer. Before, they say that the gateway starts."""
        self._mounted.services = services

    async def run(self) -> None:
        """Until `stop` or cancellation."""
        with self._listening:
            await self._server.serve(sockets=[self._listening])

    def stop(self) -> None:
        """Answers what was asked, for a few seconds at most; then `run` ends."""
        self._server.should_exit = True

"""What the daemon says of itself: which parts are well, and its metrics. Light: the daemon imports this, and
nothing that serves HTTP.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from platform import python_version

from prometheus_client.exposition import choose_encoder

from gateway import metrics
from gateway.model.errors import StoreError
from gateway.store import migrate
from gateway.store.pool import Database


class Readiness:
    """Whether the parts that serve are there. Begins unready: the daemon may be waiting for its database."""

    def __init__(self) -> None:
        self._database: Database | None = None
        self._connected: Callable[[], bool] = lambda: False
        self._refreshed: Callable[[], Awaitable[None]] | None = None
        self._draining = False
        metrics.BUILD_INFO.labels(version("fieldgate"), python_version()).set(1)

    def serve(
        self,
        database: Database,
        connected: Callable[[], bool],
        refreshed: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """From now on these are asked. `connected` says whether the broker's session is up; `refreshed`
        brings the gauges that mirror the database up to date.
        """
        self._database, self._connected = database, connected
        self._refreshed = refreshed

    def draining(self) -> None:
        """Unready for good: no new work is taken."""
        self._draining = True

    async def alive(self) -> None:
        """Returns: the loop turns."""

    async def checks(self) -> dict[str, bool]:
        """What is well, by name; ready when all are."""
        database = self._database is not None and await self._database.is_ready()
        migrations = False
        if self._database is not None and database:
            with contextlib.suppress(StoreError):
                migrations = await migrate.is_current(self._database)
        return {
            "broker": self._connected(),
            "database": database,
            "migrations": migrations,
            "accepting": not self._draining,
        }

    async def exposition(self, accept: str) -> tuple[str, str]:
        """The metrics of this process, and their media type: Prometheus text, or OpenMetrics where `accept`
        asks for it.
        """
        if self._refreshed is not None:
            await self._refreshed()
        encode, media_type = choose_encoder(accept)
        return encode(metrics.REGISTRY).decode(), media_type

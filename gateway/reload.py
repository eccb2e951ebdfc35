"""SIGHUP: the configuration is read again, and what of it can change while the daemon runs is put in force,
without touching the MQTT session. A file with a fault changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from gateway import logs
from gateway.bulkhead import contained
from gateway.configuration import Loaded
from gateway.configuration.customers import unlisted
from gateway.configuration.difference import needing_restart, reloaded
from gateway.configuration.fault import dotted
from gateway.connections.apply import apply, prepare
from gateway.engine import Engine
from gateway.ingest import Ingest
from gateway.model.errors import BrokerRefused, ConfigError, StoreError
from gateway.outage import Outage
from gateway.processes import hangup
from gateway.processes.supervisor import HttpProcess
from gateway.settings import Settings
from gateway.store import connections
from gateway.store.pool import Database

log = structlog.get_logger(__name__)


class Reloads:
    """`read` gives the configuration as it stands now. Raises ConfigError."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        read: Callable[[], Awaitable[Loaded]],
        *,
        ingest: Ingest,
        engine: Engine,
        http: HttpProcess,
        owner: str,
    ) -> None:
        self._running = settings
        self._database = database
        self._read = read
        self._ingest, self._engine, self._http, self._owner = ingest, engine, http, owner

    async def run(self) -> None:
        """Does it at each SIGHUP, until cancelled. While the database is away what was asked for waits."""
        _warn_of_unlisted(self._running)
        asked = asyncio.Event()
        hangup.listen(asked)
        outage = Outage(
            began=lambda detail: log.warning("gateway.database_awaited", detail=detail),
            ended=lambda: log.info("gateway.database_returned"),
        )
        while True:
            await asked.wait()
            asked.clear()
            with contained("declaration", "reload") as made:
                try:
                    await outage.outlast(self._once)
                except (ConfigError, BrokerRefused, StoreError) as error:
                    _refuse(str(error))
            if made.fault is not None:
                _refuse(made.fault.text)

    async def _once(self) -> None:
        loaded = await self._read()
        wanted = reloaded(self._running, loaded.settings)
        # what can never work is found before anything changes
        await prepare(self._database, self._engine.service, loaded.connections)
        await connections.register_customers(self._database, wanted.customers)
        await self._ingest.reload(wanted)
        left = needing_restart(self._running, loaded.settings)
        if wanted.logging != self._running.logging:  # a demonstration logs to a file of its own
            logs.setup(wanted.logging)
        self._running = wanted
        _warn_of_unlisted(wanted)
        self._engine.know_customers(wanted.customers)
        self._http.know(wanted)
        await apply(self._database, self._engine.service, loaded.connections, owner=self._owner)
        await self._engine.lifecycle.refresh()
        if left:
            log.warning(
                "gateway.restart_needed",
                settings=left,
                advice="these differ in the file and are left as they run: restart the gateway for them",
            )
        log.info(
            "gateway.reloaded",
            connections=len(loaded.connections),
            customers=len(wanted.customers),
            sources=len(wanted.telemetry.sources),
        )


def _warn_of_unlisted(settings: Settings) -> None:
    """In the log, for each place of the settings that is about a customer that is not among `customers`."""
    for found in unlisted(settings):
        log.warning("configuration.customer_unlisted", setting=dotted(found.path), detail=found.message)


def _refuse(detail: str) -> None:
    log.error("gateway.reload_refused", detail=detail, advice="what ran before goes on unchanged")

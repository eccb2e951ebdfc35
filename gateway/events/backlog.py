"""Sets the gauges that mirror the database, so that they are right at the first scrape after a restart."""

from __future__ import annotations

import asyncio
from typing import get_args

import structlog

from gateway import clock, metrics
from gateway.model.breaker import Scope
from gateway.model.connection import State
from gateway.model.credits import TIERS
from gateway.model.errors import StoreError
from gateway.model.exchange import Severity
from gateway.model.status import ConnectionStatus
from gateway.store import alerts, incidents, outbox, status
from gateway.store import credits as ledger
from gateway.store.pool import Database

log = structlog.get_logger(__name__)

REFRESH_SECONDS = 5.0
AUDIT_SECONDS = 60.0

_PER_CONNECTION = (
    metrics.SYNC_LAG,
    metrics.SYNC_PENDING,
    metrics.SYNC_LAST_SUCCESS,
    metrics.CONNECTION_STATE,
    metrics.REAUTHORIZATION_REQUIRED,
)


class Backlog:
    """Refreshes the gauges every few seconds; while the database is away they keep their last values."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._audit_at = 0.0
        self._disagreed: list[str] = []

    async def run(self) -> None:
        """Until cancelled."""
        away = False
        while True:
            try:
                await self.refresh()
            except StoreError as error:
                if not away:
                    log.warning("events.backlog_stale", detail=str(error))
                away = True
            else:
                away = False
            await asyncio.sleep(REFRESH_SECONDS)

    async def refresh(self) -> None:
        """Sets every gauge from the database now. Connections that are gone lose theirs. Raises StoreError."""
        connections = await status.read(self._database)
        dead = await status.dead_letters(self._database)
        open_alerts = await alerts.open_counts(self._database)
        capacity, used = await ledger.usage(self._database)
        counts = await incidents.counts(self._database)
        metrics.OUTBOX_PENDING.set(await outbox.pending(self._database))
        for gauge in (*_PER_CONNECTION, metrics.DEAD_LETTERS):
            gauge.clear()
        for connection in connections:
            _set(connection)
        for reason, held in dead.items():
            metrics.DEAD_LETTERS.labels(reason).set(held)
        for severity in get_args(Severity):
            metrics.ALERTS_OPEN.labels(severity).set(open_alerts.get(severity, 0))
        metrics.CREDITS_CAPACITY.set(capacity)
        for tier in TIERS:
            metrics.CREDITS_USED.labels(str(tier)).set(used.get(tier, 0))
        for scope in Scope:
            metrics.BREAKER_OPEN.labels(scope).set(counts.breakers[scope])
            metrics.INCIDENTS_OPEN.labels(scope).set(counts.incidents[scope])
        if clock.monotonic() >= self._audit_at:
            await self.audit()

    async def audit(self) -> None:
        """Checks the books of the credits; what is found is logged once, until it changes. Raises StoreError."""
        found = await ledger.audit(self._database)
        self._audit_at = clock.monotonic() + AUDIT_SECONDS
        metrics.CREDITS_DISAGREEMENTS.set(len(found))
        if found and found != self._disagreed:
            log.error(
                "events.credits_disagreed",
                count=len(found),
                found=found[:20],
                advice="docs/credits.md says what each means",
            )
        elif self._disagreed and not found:
            log.info("events.credits_agreed")
        self._disagreed = found


def _set(connection: ConnectionStatus) -> None:
    name, customer, system = connection.connection, connection.customer, connection.system
    metrics.SYNC_LAG.labels(name).set(connection.lag_seconds)
    metrics.SYNC_PENDING.labels(name).set(connection.pending)
    metrics.SYNC_LAST_SUCCESS.labels(name).set(
        0 if connection.last_success_at is None else connection.last_success_at.timestamp()
    )
    metrics.REAUTHORIZATION_REQUIRED.labels(name, customer, system).set(
        connection.state is State.REAUTHORIZATION_REQUIRED
    )
    for state in State:
        metrics.CONNECTION_STATE.labels(name, customer, system, state).set(connection.state is state)

"""Sets the gauges that mirror the database, so that they are right at the first scrape after a restart."""

from __future__ import annotations

import asyncio
from typing import get_args

import structlog

from gateway import clock, metrics
from gateway.model.breaker import Scope
from gateway.model.credits import TIERS
from gateway.model.exchange import Severity
from gateway.model.quota import QuotaKind
from gateway.outage import Outage
from gateway.store import alerts, inbound, incidents, outbox, quotas, silence, status
from gateway.store import credits as ledger
from gateway.store.pool import Database

log = structlog.get_logger(__name__)

REFRESH_SECONDS = 5.0
AUDIT_SECONDS = 60.0
"""While credits move: an audit reads every connection's, so nothing is read where nothing has moved."""

CALM_AUDIT_SECONDS = 600.0
MAX_CUSTOMERS = 100
"""That have series of their own."""


class Backlog:
    """Refreshes the gauges every few seconds; while the database is away they keep their last values."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._audited_monotonic: float | None = None
        self._audited: ledger.Extent | None = None
        self._moved: ledger.Extent | None = None
        self._disagreed: list[str] = []

    async def run(self) -> None:
        """Until cancelled."""
        outage = Outage(
            began=lambda detail: log.warning("events.backlog_stale", detail=detail),
            ended=lambda: log.info("events.backlog_current"),
        )
        while True:
            with outage.of_store():
                await self.refresh()
            await asyncio.sleep(REFRESH_SECONDS)

    async def refresh(self) -> None:
        """Sets every gauge from the database now. Raises StoreError."""
        dead = await status.dead_letters(self._database)
        open_alerts = await alerts.uncleared_counts(self._database)
        extent = await ledger.extent(self._database)
        used = None if extent == self._moved else await ledger.usage(self._database)
        counts = await incidents.counts(self._database)
        silent = await silence.silent_counts(self._database, MAX_CUSTOMERS)
        over = await quotas.counts(self._database)
        metrics.OUTBOX_PENDING.set(await outbox.pending(self._database))
        metrics.INBOUND_LAG.clear()
        for system, seconds in (await inbound.lags(self._database)).items():
            metrics.INBOUND_LAG.labels(system).set(seconds)
        metrics.DEVICES_SILENT.clear()
        for customer, devices in silent.items():
            metrics.DEVICES_SILENT.labels(customer).set(devices)
        metrics.DEAD_LETTERS.clear()
        for reason, held in dead.items():
            metrics.DEAD_LETTERS.labels(reason).set(held)
        for severity in get_args(Severity):
            metrics.ALERTS_OPEN.labels(severity).set(open_alerts.get(severity, 0))
        for quota in QuotaKind:
            metrics.OVER_QUOTA.labels(quota).set(over.get(quota, 0))
        metrics.CREDITS_CAPACITY.set(extent.capacity)
        for tier in TIERS if used is not None else ():
            metrics.CREDITS_USED.labels(str(tier)).set((used or {}).get(tier, 0))
        self._moved = extent
        for scope in Scope:
            metrics.BREAKER_OPEN.labels(scope).set(counts.breakers[scope])
            metrics.INCIDENTS_OPEN.labels(scope).set(counts.incidents[scope])
        if self._is_audit_due(extent):
            await self.audit()
            self._audited = extent

    def _is_audit_due(self, extent: ledger.Extent) -> bool:
        wait = CALM_AUDIT_SECONDS if extent == self._audited else AUDIT_SECONDS
        return self._audited_monotonic is None or clock.monotonic() >= self._audited_monotonic + wait

    async def audit(self) -> None:
        """Checks the counters of the credits; what is found is logged once, until it
        changes. Raises StoreError.
        """
        found = await ledger.audit(self._database)
        self._audited_monotonic = clock.monotonic()
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

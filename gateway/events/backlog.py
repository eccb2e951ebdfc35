"""Sets the gauges that mirror the database, when somebody reads them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
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
"""How old the gauges may be for whoever reads them."""

ANSWER_SECONDS = 1.0
"""After which the last values are shown instead."""

AUDIT_SECONDS = 60.0
"""While credits move: an audit reads every connection's, so nothing is read where nothing has moved. Also how
often the gauges are set although nobody reads them.
"""

CALM_AUDIT_SECONDS = 600.0
MAX_CUSTOMERS = 100
"""That have series of their own."""


class Backlog:
    """Refreshes the gauges when they are read, and each minute; while the database is away they keep their
    last values.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._audited_monotonic: float | None = None
        self._audited: ledger.Extent | None = None
        self._moved: ledger.Extent | None = None
        self._disagreed: list[str] = []
        self._read_monotonic: float | None = None
        self._reading = asyncio.Lock()
        self._outage = Outage(
            began=lambda detail: log.warning("events.backlog_stale", detail=detail),
            ended=lambda: log.info("events.backlog_current"),
        )

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._refresh_old()
            await asyncio.sleep(AUDIT_SECONDS)

    async def current(self) -> None:
        """Before somebody reads the gauges: they are a few seconds old at most, where the database answers
        in time.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._refresh_old()

    async def _refresh_old(self) -> None:
        async with self._reading:  # whoever reads meanwhile is given what is being read
            now = clock.monotonic()
            if self._read_monotonic is None or now >= self._read_monotonic + REFRESH_SECONDS:
                with self._outage.of_store():
                    await self.refresh()
                    self._read_monotonic = now

    async def refresh(self) -> None:
        """Sets every gauge from the database now. Raises StoreError."""
        dead = await status.dead_letters(self._database)
        open_alerts = await alerts.uncleared_counts(self._database)
        extent = await ledger.extent(self._database)
        used = None if extent == self._moved else await ledger.usage(self._database)
        counts = await incidents.counts(self._database)
        silent = await silence.silent_counts(self._database, MAX_CUSTOMERS)
        over = await quotas.counts(self._database)
        pending, lags = await outbox.pending(self._database), await inbound.lags(self._database)
        # nothing is awaited from here on: whoever reads finds all of it set
        metrics.OUTBOX_PENDING.set(pending)
        metrics.INBOUND_LAG.clear()
        for system, seconds in lags.items():
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

"""The alerts of connections as a scheduler's work, and what becomes of them by the clock."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta

import structlog

from gateway.alerts import life
from gateway.alerts.run import AlertRunner
from gateway.bulkhead import contained
from gateway.model.errors import StoreError
from gateway.store import alert_streams
from gateway.store import alerts as store
from gateway.store.alert_streams import AlertClaim
from gateway.store.pool import Database
from gateway.sync.link import Link

log = structlog.get_logger(__name__)

MAX_STREAMS = 64
"""In hand at once: each judges on the loop that everybody's telemetry goes through."""

UPKEEP_SECONDS = 600.0
GONE_AFTER = timedelta(days=30)
"""A device that sent nothing for so long is gone: its open alerts end, and one that comes back begins anew."""

KEPT = timedelta(days=400)


class AlertWork:
    """Alerts to the systems. `owner` names the replica in leases; any replica takes any connection."""

    def __init__(self, database: Database, runner: AlertRunner, *, lease_seconds: float, owner: str) -> None:
        self._database = database
        self._owner = owner
        self._lease_seconds = lease_seconds
        self.run, self.crashed = runner.run, runner.crashed

    def serve(self, links: Mapping[str, Link]) -> None:
        """As the scheduler's `Work`: a claim is told which they are."""

    async def claim(
        self,
        links: Mapping[str, Link],
        limit: int,
        *,
        in_hand: Sequence[str],
        has_ended: bool,  # noqa: ARG002
    ) -> list[AlertClaim]:
        """As the scheduler's `Work`."""
        free = min(limit, MAX_STREAMS - len(in_hand))
        if free <= 0:
            return []
        return await alert_streams.claim(
            self._database, self._owner, self._lease_seconds, list(links), free, in_hand=in_hand
        )

    async def seconds_to_next(self, links: Mapping[str, Link]) -> float | None:
        """As the scheduler's `Work`."""
        return await alert_streams.seconds_to_next(self._database, list(links))

    async def renew(self, claim: AlertClaim) -> None:
        """As the scheduler's `Work`."""
        await alert_streams.renew(self._database, claim, self._lease_seconds)


async def upkeep(database: Database) -> None:
    """Ends the alerts of devices that are gone, and forgets what is over for long. Raises StoreError."""
    async with database.transaction() as connection:
        await life.end(connection, await store.gone(connection, GONE_AFTER))
    await store.forget(database, KEPT)


async def keep_up(database: Database) -> None:
    """`upkeep` from time to time, until cancelled. A database that is away is waited for."""
    while True:
        try:
            with contained("upkeep", "alerts"):
                await upkeep(database)
        except StoreError as error:
            log.debug("alerts.upkeep_deferred", detail=str(error))
        await asyncio.sleep(UPKEEP_SECONDS)

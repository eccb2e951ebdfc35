"""What becomes of alerts by the clock: those of devices that are gone end, and what is over for long is
forgotten.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

import structlog

from gateway.alerts import life
from gateway.bulkhead import contained
from gateway.model.errors import StoreError
from gateway.store import alerts as store
from gateway.store.pool import Database

log = structlog.get_logger(__name__)

UPKEEP_SECONDS = 600.0
GONE_AFTER = timedelta(days=30)
"""A device that sent nothing for so long is gone: its open alerts end, and one that
comes back begins anew.
"""

KEPT = timedelta(days=400)


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

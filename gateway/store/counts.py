"""How many due windows and dead letters there are, kept by triggers of the tables (ADR 29). Reads are whoever
needs them's: what is kept and what has changed since, added in one statement.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from gateway.model.errors import StoreError
from gateway.store.pool import Database
from gateway.store.queries import sql

FOLD_SECONDS = 5.0


async def fold(database: Database) -> None:
    """Adds the changes to what is kept. Reads are right without it, and dearer the longer it was not done.
    Safe on several replicas at once: one does it.
    """
    await database.execute(sql("counts_fold"))


async def run(database: Database) -> None:
    """Until cancelled. A database that is away is told of by others."""
    while True:
        with suppress(StoreError):
            await fold(database)
        await asyncio.sleep(FOLD_SECONDS)

"""Retention: whole daily partitions are dropped, never one that a stream still needs; old runs, dead letters
and events are deleted.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from gateway.store import outbox
from gateway.store.pool import Database
from gateway.store.queries import sql

RUNS_KEPT = timedelta(days=30)
EVENTS_KEPT = timedelta(days=30)


async def drop_expired(database: Database, *, now: datetime, retention: timedelta) -> list[str]:
    """Drops what is older than `retention` and returns the names of the partitions that went."""
    before = (now - retention).date()
    dropped: list[str] = []
    for parent in ("telemetry", "delivery"):
        async with database.connection() as connection:
            expired = await connection.fetch(sql("partitions_expired"), parent, before)
        for row in expired:
            async with database.transaction() as connection:
                if await connection.fetchval(sql("partition_needed"), row["day"]):
                    break
                await connection.execute("set local lock_timeout = '5s'")
                await connection.execute(f'drop table "{row["name"]}"')
            dropped.append(row["name"])
    async with database.transaction() as connection:
        await connection.execute("delete from sync_run where ended_at < $1", now - RUNS_KEPT)
        await connection.execute(sql("dead_letters_expire"), now - retention)
        await connection.execute("delete from delivery_doubt where window_start < $1", now - retention)
    await outbox.remove_expired(database, before=now - EVENTS_KEPT)
    return dropped

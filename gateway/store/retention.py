"""Retention: whole daily partitions are dropped, never one that a stream still needs; old runs, dead letters
and events are deleted; dead letters are bounded by customer.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from gateway.model.event import EventType, NewEvent
from gateway.store import outbox
from gateway.store.pool import Database
from gateway.store.queries import sql

RUNS_KEPT = timedelta(days=30)
EVENTS_KEPT = timedelta(days=30)


async def trim_dead_letters(
    database: Database, *, now: datetime, retention: timedelta, max_bytes: int
) -> dict[str | None, int]:
    """Lets go of dead letters that are older than `retention`, or beyond what their customer may hold, the
    oldest first; how many of the latter, by customer (None: nobody's). Each customer is told once a day.
    """
    async with database.transaction() as connection:
        before = now - retention
        size: int = await connection.fetchval("select pg_total_relation_size('dead_letter')")
        if size < max_bytes:  # nobody holds too much: no row is looked at but for its age
            await connection.execute("delete from dead_letter where last_at < $1", before)
            return {}
        rows = await connection.fetch(sql("dead_letter_trim"), max_bytes, before)
        dropped = {row["customer_id"]: row["dropped"] for row in rows}
        for customer, count in dropped.items():
            event = NewEvent(
                type=EventType.DEAD_LETTERS_DROPPED,
                customer=customer,
                data={"dropped": count, "limit_bytes": max_bytes},
            )
            await outbox.append_once(connection, event, within=timedelta(days=1))
    return dropped


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
    await outbox.remove_expired(database, before=now - EVENTS_KEPT)
    return dropped

"""The outbox: events in the order in which they are to be told. Must not know where they go, except that
webhooks want a row each.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

import asyncpg

from gateway.bulkhead import readable
from gateway.model.event import Event, EventType, NewEvent
from gateway.store.pool import Connection, Database
from gateway.store.queries import filtered, sql

REMOVED_AT_ONCE = 5_000
ORDERED_AT_ONCE = 10_000


async def append(connection: Connection, event: NewEvent) -> None:
    """Adds the event in the caller's transaction, with a delivery for each webhook that wants it: told if and
    only if that commits.

    Events of one connection are told in the order of their positions. Writers that hold the connection's row
    lock therefore fix the order; the order of events of transactions that overlap is not defined.
    """
    await connection.execute(
        sql("outbox_append"), event.type, event.customer, event.connection, dict(event.data), event.request_id
    )


async def append_once(connection: Connection, event: NewEvent, *, within: timedelta) -> bool:
    """As `append`, unless the customer was told the same type of event within this time before; whether it
    was added.
    """
    # Two replicas that see the same at once tell it once: the second waits here and then finds the event.
    lock = f"{event.type} {event.customer}"
    await connection.execute("select pg_advisory_xact_lock(hashtext('fieldgate.event'), hashtext($1))", lock)
    since = await connection.fetchval("select now() - $1::interval", within)
    if await connection.fetchval(sql("event_told_lately"), event.type, event.customer, since):
        return False
    await append(connection, event)
    return True


async def unpublished(
    database: Database, *, without: Collection[str], lanes: int, events: int
) -> Mapping[str, Sequence[Event]]:
    """The next `events` of each of at most `lanes` lanes that MQTT has not taken, leaving out the lanes
    `without`; in order.
    """
    async with database.connection() as connection:
        rows = await connection.fetch(sql("outbox_unpublished"), list(without), lanes, events)
    found: dict[str, list[Event]] = {}
    stopped: set[str] = set()
    for row in rows:
        lane = row["lane"]
        for event in readable([row], to_event, name=_name) if lane not in stopped else ():
            found.setdefault(lane, []).append(event)
            break
        else:  # a lane is told in order: it waits at what cannot be read
            stopped.add(lane)
    return found


def _name(row: asyncpg.Record) -> object:
    return row["event_id"]


async def mark_published(database: Database, positions: Sequence[int]) -> None:
    """Notes that MQTT took them. Idempotent."""
    async with database.connection() as connection:
        await connection.execute(sql("outbox_published"), list(positions))


async def pending(database: Database) -> int:
    """How many events MQTT has not taken."""
    async with database.connection() as connection:
        count: int = await connection.fetchval(sql("outbox_pending"))
    return count


async def read(
    database: Database, *, customer: str | None, after: int = 0, limit: int = 100
) -> Sequence[Event]:
    """The next events after the one at position `after` (0: from the oldest that is kept), of one customer or
    of everybody.

    To go on, give the position of the last one. Nothing is missed, whatever order transactions commit in: an
    event gets its place among those that readers see once it is committed, after all that were read before.
    Where `after` is no longer kept, the oldest that is kept comes next.
    """
    async with database.connection() as connection:
        await connection.execute(sql("outbox_order"), ORDERED_AT_ONCE)
        if customer is None:
            rows = await connection.fetch(sql("outbox_read"), after, limit)
        else:
            rows = await connection.fetch(sql("outbox_read_customer"), customer, after, limit)
    return readable(rows, to_event, name=_name)


async def latest(
    database: Database,
    *,
    customer: str | None = None,
    connection_id: str | None = None,
    types: Sequence[EventType] | None = None,
    since: datetime,
    limit: int,
) -> list[Event]:
    """The latest of them, in the order in which `read` gives them."""
    names = None if types is None else [str(each) for each in types]
    async with database.connection() as connection:
        await connection.execute(sql("outbox_order"), ORDERED_AT_ONCE)
        if customer is None and connection_id is None:
            rows = await connection.fetch(*filtered("event_latest", names, since, limit))
        else:
            wanted = (names, connection_id, since, limit, customer)
            rows = await connection.fetch(*filtered("event_latest_customer", *wanted))
    return list(reversed(readable(rows, to_event, name=_name)))


async def remove_expired(database: Database, *, before: datetime) -> int:
    """Deletes the events that are older, with their deliveries, a few thousand in each
    transaction; how many.
    """
    removed = 0
    while True:
        async with database.connection() as connection:
            count: int = await connection.fetchval(sql("outbox_remove"), before, REMOVED_AT_ONCE)
        removed += count
        if count < REMOVED_AT_ONCE:
            return removed


def to_event(row: asyncpg.Record) -> Event:
    """An event from a row that holds its columns."""
    return Event(
        position=row["position"],
        event_id=str(row["event_id"]),
        type=EventType(row["type"]),
        customer=row["customer_id"],
        connection=row["connection_id"],
        lane=row["lane"],
        at=row["at"],
        data=row["data"],
        request_id=row["request_id"],
    )

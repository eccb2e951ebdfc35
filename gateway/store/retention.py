"""Retention: whole daily partitions are dropped; old runs, dead letters and events are
deleted; what dead letters take is bounded by customer.

A day past its retention that a connection has not done with is kept for its customer alone, up to `buffer`,
and then dropped all the same: a connection that is paused or unauthorized for months must not fill the disk
of the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import structlog

from gateway.model.connection import IssueCode
from gateway.model.event import EventType, NewEvent
from gateway.store import connections, issues, outbox
from gateway.store.issues import NewIssue
from gateway.store.pool import Connection, Database
from gateway.store.queries import filtered, sql

log = structlog.get_logger(__name__)

RUNS_KEPT = timedelta(days=30)
EVENTS_KEPT = timedelta(days=30)
TELLING_AT = 0.8
"""Of `buffer`: how old the oldest unread day may be before its customer is told."""

BULK_SECONDS = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DayReader:
    """A connection that has not done with a day."""

    connection: str
    customer: str


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
            await connection.execute(sql("dead_letters_expire"), before)
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


async def drop_expired(
    database: Database, *, now: datetime, retention: timedelta, buffer: timedelta | None = None
) -> list[str]:
    """Drops the days that are older than `retention` and returns the names of the partitions that went.

    One that a connection has not done with stays until it is older than `buffer` (None: as `retention`),
    without the samples of customers who have; then it goes, and who lost something is told in the same
    transaction.
    """
    before, at_last = (now - retention).date(), (now - (buffer or retention)).date()
    dropped: list[str] = []
    for parent in ("telemetry", "delivery", "withheld"):
        async with database.connection() as connection:
            expired = await connection.fetch(sql("partitions_expired"), parent, before)
        dropped += [
            row["name"]
            for row in expired
            if await _drop(database, parent, row["name"], row["day"], forced=row["day"] < at_last)
        ]
    async with database.transaction() as connection:
        await connection.execute("delete from sync_run where ended_at < $1", now - RUNS_KEPT)
        await connection.execute("delete from connection_hour where hour < $1", now - RUNS_KEPT)
        await connection.execute(
            "delete from delivery_doubt where window_start < $1", now - (buffer or retention)
        )
    await outbox.remove_expired(database, before=now - EVENTS_KEPT)
    return dropped


async def tell_filling(database: Database, *, now: datetime, buffer: timedelta, public_url: str) -> list[str]:
    """Tells, once until they have read on, the customers whose unread telemetry reaches 80 % of `buffer`: an
    event and an issue. Returns the connections that were told now.
    """
    oldest: dict[DayReader, date] = {}
    async with database.transaction() as connection:
        days = await connection.fetch(
            sql("partitions_expired"), "telemetry", (now - TELLING_AT * buffer).date()
        )
        for row in days:
            for reader in await _readers(connection, row["day"]):
                oldest.setdefault(reader, row["day"])
        names = [reader.connection for reader in oldest]
        fresh = {row["connection_id"] for row in await connection.fetch(sql("buffer_told"), names)}
        for reader, day in oldest.items():
            dropped_on = day + timedelta(days=1) + timedelta(days=buffer.days)
            issue = _issue(reader, day, dropped_on, public_url)
            await issues.add(connection, reader.connection, issue)
            if reader.connection in fresh:
                data = {"oldest": day.isoformat(), "dropped_on": dropped_on.isoformat()}
                await _tell(connection, EventType.CONNECTION_BUFFER_FILLING, reader, data)
    return sorted(fresh)


async def _drop(database: Database, parent: str, name: str, day: date, *, forced: bool) -> bool:
    """False for a day that is kept for somebody."""
    async with database.transaction() as connection:
        readers = await _readers(connection, day, reaching_in=True)
        if not readers or forced:
            # whoever waits for the table waits behind us: for a moment only, an hour later it is tried again
            await connection.execute("set local lock_timeout = '1s'")
            for reader in await _readers(connection, day) if parent == "telemetry" else ():
                await _lose(connection, reader, day)
            if parent == "telemetry":
                await connection.execute(sql("customer_days_drop"), day)
            if parent != "withheld":
                await _note(connection, None, day)
            await connection.execute(f'drop table "{name}"')
            return True
    if parent == "telemetry":
        await _keep_for(database, name, day, {reader.customer for reader in readers})
    return False


async def _keep_for(database: Database, name: str, day: date, customers: set[str]) -> None:
    """Takes the samples of all others out of a day that is kept, each customer's in a
    transaction of its own.
    """
    async with database.connection() as connection:
        others = await connection.fetch(sql("partition_others"), day, list(customers), timeout=BULK_SECONDS)
    for row in others:
        async with database.transaction() as connection:
            await _note(connection, [row["customer_id"]], day)
            delete = f'delete from "{name}" where customer_id = $1'  # noqa: S608 - a name of the catalogue
            await connection.execute(delete, row["customer_id"], timeout=BULK_SECONDS)


async def _note(connection: Connection, customers: list[str] | None, day: date) -> None:
    """Windows of these customers (None: of all) that begin before the end of the day are computed no more:
    of one that has no sample of the day, that it was delivered is gone.
    """
    await connection.execute(*filtered("telemetry_dropped_note", customers, day))


async def _readers(connection: Connection, day: date, *, reaching_in: bool = False) -> list[DayReader]:
    """Who is not done with the day. `reaching_in`: nor with a later one, whose samples may be of windows that
    begin in this one.
    """
    return [
        DayReader(connection=row["connection_id"], customer=row["customer_id"])
        for row in await connection.fetch(sql("partition_readers"), day, reaching_in)
    ]


async def _lose(connection: Connection, reader: DayReader, day: date) -> None:
    # its row and its streams before its windows, as whoever changes it takes them
    await connections.lock(connection, reader.connection)
    await connection.execute(sql("stream_take_all"), reader.connection)
    row = await connection.fetchrow(
        sql("buffer_lose"), reader.connection, reader.customer, day, timeout=BULK_SECONDS
    )
    assert row is not None
    data = {"day": day.isoformat(), "samples": row["samples"], "windows": row["windows"]}
    log.error("store.unread_dropped", connection=reader.connection, **data)
    await _tell(connection, EventType.CONNECTION_TELEMETRY_DROPPED, reader, data)


async def _tell(
    connection: Connection, event: EventType, reader: DayReader, data: Mapping[str, object]
) -> None:
    await outbox.append(
        connection,
        NewEvent(type=event, customer=reader.customer, connection=reader.connection, data=data),
    )


def _issue(reader: DayReader, day: date, dropped_on: date, public_url: str) -> NewIssue:
    return NewIssue(
        code=IssueCode.BUFFER_FILLING,
        severity="warning",
        title=(
            f"Telemetry of {day.isoformat()} waits for {reader.connection} and is dropped on"
            f" {dropped_on.isoformat()}"
        ),
        instructions=(
            "Let the connection deliver again, or disconnect it: resume it where it is paused, give it a new"
            " credential where that is asked for. What is dropped cannot be delivered later."
        ),
        action_url=f"{public_url}/connections/{reader.connection}",
    )

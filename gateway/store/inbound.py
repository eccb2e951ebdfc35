"""Stores inbound streams: which are due, who reads them (lease and fence), and how far they have come."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from gateway.model.errors import LeaseLost
from gateway.model.event import EventType, NewEvent
from gateway.model.record import LogPlace, Phase, write_cursor
from gateway.store import outbox
from gateway.store.pool import Connection, Database
from gateway.store.queries import sql

CLOCK_OFF = timedelta(seconds=5)
"""A system's clock may seem to change by so much between two answers, for answers take time."""

RESUME_SECONDS = 600.0
"""A walk whose last page is older than this begins again: its cursor may be gone at the system, or stale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundClaim:
    """A claimed phase of a stream: it is ours until its lease runs out, and every write proves the fence."""

    customer: str
    connection: str
    stream: str
    phase: Phase
    fence: int
    attempts: int
    put_off: int = 0

    @property
    def key(self) -> tuple[str, str, str]:
        """What names the phase."""
        return (self.connection, self.stream, self.phase)

    @property
    def of(self) -> tuple[str, str, str]:
        """Customer, connection and stream: whose records it reads."""
        return (self.customer, self.connection, self.stream)

    @property
    def fenced(self) -> tuple[str, str, str, str, int]:
        """What finds the row of the phase as long as it is ours."""
        return (*self.of, self.phase, self.fence)


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundPosition:
    """How far a phase has come.

    By the system's clock: `origin` is where history ends and news begin; everything new up to `high` has been
    read; the walk in hand reads from `walk_low` to `walk_high`. By our clock: `at` is now; `asked_at` is when
    the system's clock was asked to find `high` (or `origin`, where there is no `high` yet), `walk_asked_at`
    the same for `walk_high`.

    `walk_cursor`: with which the walk in hand goes on; None where it begins. `position`: of the customer's
    record log.
    """

    origin: datetime | None
    high: datetime | None
    initial_days: int
    open_done: bool
    walk_low: datetime | None
    walk_high: datetime | None
    walk_cursor: str | None
    walk_pages: int
    walk_position: int
    position: int
    asked_at: datetime | None
    walk_asked_at: datetime | None
    at: datetime


Done = Literal["high", "open", "walk"]
"""What is complete when a walk has ended: an interval, the list of what is open, or the walk of all keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemClock:
    """What is known of a system's clock: when it was asked, by our clock, and how far it was `ahead` of ours.
    `read_to` is set where it may have been set back: up to when everything has been read, by what it shows
    now.
    """

    asked_at: datetime
    ahead: timedelta
    read_to: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamProgress:
    """A phase of an inbound stream, as it is shown."""

    connection: str
    stream: str
    phase: Phase
    state: str
    attempts: int
    high: datetime | None
    origin: datetime | None
    initial_days: int
    read_records: int
    walk_records: int
    walk_total: int | None
    vanished: int
    last_error: str | None
    last_success_at: datetime | None
    next_run_at: datetime
    alive: int
    lag_seconds: float
    running_seconds: float | None


async def begin(
    connection: Connection,
    customer: str,
    connection_id: str,
    phases: Sequence[tuple[str, Phase]],
    *,
    initial_days: int,
) -> None:
    """From now on these phases of the connection are worked, and no others."""
    names, kinds = [name for name, _ in phases], [phase for _, phase in phases]
    await connection.execute(sql("inbound_begin"), customer, connection_id, names, kinds, initial_days)


async def begin_again(
    connection: Connection, customer: str, connection_id: str, stream: str | None, *, initial_days: int
) -> None:
    """Has the history read once more, and all keys walked. What is new is read beside it."""
    await connection.execute(sql("inbound_again"), customer, connection_id, stream, initial_days)


async def wake(connection: Connection, connection_id: str, stream: str | None = None) -> None:
    """Has what is new read at once."""
    await connection.execute(sql("inbound_wake"), connection_id, stream)


async def clear(connection: Connection, connection_id: str) -> None:
    """Ends the streams of a connection. The publisher removes its records, when it has cleared them at the
    broker.
    """
    await connection.execute(sql("inbound_clear"), connection_id)


async def claim(
    database: Database,
    owner: str,
    lease_seconds: float,
    connections: Sequence[str],
    limit: int,
    *,
    in_hand: Collection[str],
) -> list[InboundClaim]:
    """As `streams.claim`."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            sql("inbound_claim"), owner, lease_seconds, list(connections), limit, list(in_hand)
        )
    return [
        InboundClaim(
            customer=row["customer_id"],
            connection=row["connection_id"],
            stream=row["stream"],
            phase=row["phase"],
            fence=row["fence"],
            attempts=row["attempts"],
            put_off=row["put_off"],
        )
        for row in rows
    ]


async def with_streams(database: Database, connections: Sequence[str]) -> list[str]:
    """Which of these connections have a stream at all."""
    query = "select distinct connection_id from inbound_stream where connection_id = any($1)"
    return [row["connection_id"] for row in await database.fetch(query, list(connections))]


async def seconds_to_next(database: Database, connections: Sequence[str]) -> float | None:
    """As `streams.seconds_to_next`."""
    async with database.connection() as connection:
        seconds: float | None = await connection.fetchval(sql("inbound_next"), list(connections))
    return seconds


async def renew(database: Database, claim: InboundClaim, lease_seconds: float) -> None:
    """Renews the lease. Raises LeaseLost where the stream is somebody else's by now."""
    async with database.connection() as connection:
        if not await connection.fetchval(sql("inbound_renew"), *claim.fenced, lease_seconds):
            raise lost(claim)


async def read(database: Database, claim: InboundClaim) -> InboundPosition:
    """Reads how far the phase has come. Raises LeaseLost."""
    async with database.connection() as connection:
        row = await connection.fetchrow(sql("inbound_read"), *claim.fenced, RESUME_SECONDS)
    if row is None:
        raise lost(claim)
    return InboundPosition(**dict(row))


async def set_origin(
    database: Database, claim: InboundClaim, now: datetime, asked_at: datetime
) -> InboundPosition:
    """Notes where history ends and news begin, by the system's clock, for all phases of the stream."""
    async with database.connection() as connection:
        await connection.execute(sql("inbound_origin"), *claim.of, now, claim.phase, asked_at)
    return await read(database, claim)


async def set_back(database: Database, claim: InboundClaim, now: datetime) -> None:
    """Has the history read again where, by the system's clock as it is now, it ended in the future."""
    await database.execute(sql("inbound_clock_back"), *claim.of, now)


async def abandon(database: Database, claim: InboundClaim) -> None:
    """Has the walk in hand begin again at its first page."""
    async with database.connection() as connection:
        await connection.execute(sql("inbound_abandon"), *claim.fenced)


async def begin_walk(database: Database, claim: InboundClaim, position: int) -> None:
    """Begins a walk of all keys. Raises LeaseLost."""
    async with database.connection() as connection:
        if not await connection.fetchval(sql("inbound_walk"), *claim.fenced, position):
            raise lost(claim)


async def finish(
    database: Database,
    claim: InboundClaim,
    *,
    state: str,
    next_in_seconds: float,
    attempts: int,
    error: str | None,
    succeeded: bool,
    put_off: int = 0,
    is_asked_for: bool = False,
    event: NewEvent | None = None,
) -> None:
    """Schedules the next run, gives the lease back, and appends an event of the records that changed since
    the last one. One transaction; raises LeaseLost.
    """
    async with database.transaction() as connection:
        # The connection's row is locked before the stream's, as in every transition.
        await connection.execute(sql("connection_lock"), claim.connection)
        how = (state, next_in_seconds, attempts, error, succeeded, put_off, is_asked_for)
        row = await connection.fetchrow(sql("inbound_finish"), *claim.fenced, *how)
        if row is None:
            raise lost(claim)
        if row["created"] or row["modified"] or row["deleted"]:
            counts = {name: row[name] for name in ("created", "modified", "deleted")}
            data = {"stream": claim.stream, "phase": claim.phase, **counts}
            data["cursor"] = write_cursor(
                LogPlace(customer=claim.customer, epoch=row["epoch"], position=row["told_position"])
            )
            changed = NewEvent(
                type=EventType.RECORDS_CHANGED,
                customer=claim.customer,
                connection=claim.connection,
                data=data,
            )
            await outbox.append(connection, changed)
        if event is not None:
            await outbox.append(connection, event)


async def confirm(connection: Connection, customer: str, connection_id: str, stream: str) -> int | None:
    """Lets the next walk delete the records of a stream that a person was told of, and no others. Returns how
    many they are; None where no deletion waits to be confirmed.
    """
    if not await connection.fetchval(sql("inbound_confirm"), customer, connection_id, stream):
        return None
    await connection.fetchrow(sql("record_log_lock"), customer)  # as everybody who changes its records
    count: int = await connection.fetchval(sql("record_confirm"), customer, connection_id, stream)
    return count


async def lags(database: Database) -> dict[str, float]:
    """By system the lag of its slowest stream: the age in seconds of the last interval that was read."""
    async with database.connection() as connection:
        rows = await connection.fetch(sql("inbound_lags"))
    return {row["system"]: max(0.0, row["seconds"]) for row in rows}


async def vanished(database: Database, connection_id: str) -> bool:
    """Whether a person has to confirm that records of one of its streams are gone."""
    return any(stream.vanished for stream in await progress(database, [connection_id]))


async def progress(database: Database, connections: Sequence[str]) -> list[StreamProgress]:
    """How far the streams of these connections are."""
    async with database.connection() as connection:
        rows = await connection.fetch(sql("inbound_streams"), list(connections))
    return [_progress(dict(row)) for row in rows]


def _progress(row: dict[str, Any]) -> StreamProgress:
    return StreamProgress(connection=row.pop("connection_id"), **row)


def lost(claim: InboundClaim) -> LeaseLost:
    """What is raised when the stream is somebody else's by now."""
    return LeaseLost(f"inbound stream {'/'.join(claim.key)} is worked on by another replica")

"""Inbound streams: which are due, who reads them (lease and fence), and how far they have come."""

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
"""By so much a system's clock may seem to be off between two answers."""

RESUME_SECONDS = 600.0
"""A walk whose last page is older begins again: what a system keeps for a cursor may be gone, or stale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundClaim:
    """A phase of a stream that is ours until its lease runs out. Every write proves the fence."""

    customer: str
    connection: str
    stream: str
    phase: Phase
    fence: int
    attempts: int
    put_off: int = 0

    @property
    def key(self) -> tuple[str, str, str]:
        """What names it."""
        return (self.connection, self.stream, self.phase)

    @property
    def of(self) -> tuple[str, str, str]:
        """Whose records it reads."""
        return (self.customer, self.connection, self.stream)

    @property
    def fenced(self) -> tuple[str, str, str, str, int]:
        """Its row, as long as it is ours."""
        return (*self.of, self.phase, self.fence)


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundPosition:
    """How far a phase has come. Times are the system's; `walk_cursor` where a walk can be gone on with.
    `position`: of the customer's record log. By our clock: `at` is now; `asked_at` when the system's clock
    showed what `high`, or `origin` where there is none, was made from; `walk_asked_at` that of `walk_high`.
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
"""What the last page of a walk completes: an interval, the list of what is open, a walk of all keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemClock:
    """What is known of it: when it was asked, by our clock, and how far it was `ahead` of that. `read_to`: up
    to when everything had been read, by what it shows now, where it may have been set back.
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
    """The rows of these phases are worked from now on, and no others of the connection."""
    names, kinds = [name for name, _ in phases], [phase for _, phase in phases]
    await connection.execute(sql("inbound_begin"), customer, connection_id, names, kinds, initial_days)


async def begin_again(
    connection: Connection, customer: str, connection_id: str, stream: str | None, *, initial_days: int
) -> None:
    """History is read once more, and every key looked at; what is new is read beside it."""
    await connection.execute(sql("inbound_again"), customer, connection_id, stream, initial_days)


async def wake(connection: Connection, connection_id: str, stream: str | None = None) -> None:
    """What is new is looked for at once."""
    await connection.execute(sql("inbound_wake"), connection_id, stream)


async def clear(connection: Connection, connection_id: str) -> None:
    """Nothing is read any more. The records go with the publisher, which empties what the broker retains."""
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
    """Those of these connections that have a stream at all."""
    query = "select distinct connection_id from inbound_stream where connection_id = any($1)"
    return [row["connection_id"] for row in await database.fetch(query, list(connections))]


async def seconds_to_next(database: Database, connections: Sequence[str]) -> float | None:
    """As `streams.seconds_to_next`."""
    async with database.connection() as connection:
        seconds: float | None = await connection.fetchval(sql("inbound_next"), list(connections))
    return seconds


async def renew(database: Database, claim: InboundClaim, lease_seconds: float) -> None:
    """Raises LeaseLost when the stream is somebody else's by now."""
    async with database.connection() as connection:
        if not await connection.fetchval(sql("inbound_renew"), *claim.fenced, lease_seconds):
            raise lost(claim)


async def read(database: Database, claim: InboundClaim) -> InboundPosition:
    """Where it is. Raises LeaseLost."""
    async with database.connection() as connection:
        row = await connection.fetchrow(sql("inbound_read"), *claim.fenced, RESUME_SECONDS)
    if row is None:
        raise lost(claim)
    return InboundPosition(**dict(row))


async def set_origin(
    database: Database, claim: InboundClaim, now: datetime, asked_at: datetime
) -> InboundPosition:
    """Where history ends and news begin, by the system's clock: the same for all phases of the stream."""
    async with database.connection() as connection:
        await connection.execute(sql("inbound_origin"), *claim.of, now, claim.phase, asked_at)
    return await read(database, claim)


async def set_back(database: Database, claim: InboundClaim, now: datetime) -> None:
    """History is read again where it began in what is the future by now, on the system's clock."""
    await database.execute(sql("inbound_clock_back"), *claim.of, now)


async def abandon(database: Database, claim: InboundClaim) -> None:
    """The walk in hand begins again at its first page."""
    async with database.connection() as connection:
        await connection.execute(sql("inbound_abandon"), *claim.fenced)


async def begin_walk(database: Database, claim: InboundClaim, position: int) -> None:
    """A walk of all keys begins. Raises LeaseLost."""
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
    """Schedules the next run, gives the lease back, and tells what changed since it was last told. One
    transaction; raises LeaseLost.
    """
    async with database.transaction() as connection:
        # the connection's row before the stream's, as every transition takes them
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
    """What was told of a stream, and no other of its records, may go with its next walk: how many; None where
    nothing waits for that.
    """
    if not await connection.fetchval(sql("inbound_confirm"), customer, connection_id, stream):
        return None
    await connection.fetchrow(sql("record_log_lock"), customer)  # as everybody who changes its records
    count: int = await connection.fetchval(sql("record_confirm"), customer, connection_id, stream)
    return count


async def lags(database: Database) -> dict[str, float]:
    """Of each system, the age in seconds of the last interval that was read whole, of its slowest stream."""
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

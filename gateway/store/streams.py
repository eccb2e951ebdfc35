"""Stores outbound streams: which are due, who works on them (lease and fence), and when they run next."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from gateway.model.errors import LeaseLost
from gateway.model.event import NewEvent
from gateway.store import outbox
from gateway.store.pool import Connection, Database
from gateway.store.queries import sql

Phase = Literal["initial", "incremental"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A claimed stream: it is ours until its lease runs out, and every write proves the fence."""

    connection: str
    customer: str
    name: str
    phase: Phase
    fence: int
    attempts: int
    put_off: int = 0
    """How many runs in a row the system has put off: each lengthens the wait, and no reading is given up for
    it.
    """
    trial: bool = False
    """The connection is blocked: one reading may be pushed, to see whether it still is."""

    @property
    def key(self) -> tuple[str, str, Phase]:
        """What names the stream."""
        return (self.connection, self.name, self.phase)


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far a stream has come. The times are set in the initial phase only. `meters_of`: the configuration
    whose meters are in force; it stays so until the transaction ends. `is_scanned`: a run of another
    connection has just scanned the log to its end for this one too.
    """

    watermark: int
    device_watermark: int
    initial_from: datetime | None
    initial_cursor: datetime | None
    initial_until: datetime | None
    meters_of: int
    is_scanned: bool


@dataclass(slots=True, kw_only=True)
class RunTally:
    """What one run did, for its record and for metrics."""

    samples: int = 0
    delivered: int = 0
    modified: int = 0
    unchanged: int = 0
    rejected: int = 0
    retried: int = 0

    @property
    def moved(self) -> bool:
        """Whether the run did anything that is seen outside."""
        return bool(self.delivered or self.modified or self.rejected or self.retried)

    @property
    def passed(self) -> bool:
        """Whether the system took or refused a reading for good."""
        return bool(self.delivered or self.modified or self.rejected)


async def claim(
    database: Database,
    owner: str,
    lease_seconds: float,
    connections: Sequence[str] | None,
    limit: int,
    *,
    in_hand: Sequence[str],
    without: Collection[str] = (),
) -> list[Claim]:
    """Claims up to `limit` due streams, of these connections or of all but those `without`. Two replicas
    never get the same stream.

    Where a lease is our own and no task of ours has the stream `in_hand` ("connection/name/phase") its run
    was interrupted: it is claimed again at once.
    """
    rows = await database.fetch(
        sql("stream_claim"),
        owner,
        lease_seconds,
        None if connections is None else list(connections),
        limit,
        list(in_hand),
        list(without),
    )
    return [
        Claim(
            connection=row["connection_id"],
            customer=row["customer_id"],
            name=row["name"],
            phase=row["phase"],
            fence=row["fence"],
            attempts=row["attempts"],
            put_off=row["put_off"],
            trial=row["trial"],
        )
        for row in rows
    ]


async def rest(database: Database, limit: int) -> bool:
    """Puts off, by their interval, those of up to `limit` due streams that have nothing to do. Returns
    whether there are due streams that have something to do.
    """
    others: bool = await database.fetchval(sql("stream_rest"), limit)
    return others


async def seconds_to_next(database: Database) -> float | None:
    """Seconds until streams should be claimed; None where none waits. A stream that falls due alone waits for
    others, as its interval allows: of thousands of idle streams one falls due every few milliseconds.
    """
    seconds: float | None = await database.fetchval(sql("stream_next"))
    return seconds


async def give_back(database: Database, claim: Claim) -> None:
    """Gives a claimed stream back as it was: whoever can serve it claims it."""
    await database.execute(sql("stream_return"), *claim.key, claim.fence)


async def renew(database: Database, claim: Claim, lease_seconds: float) -> None:
    """Renews the lease. Raises LeaseLost where the stream is somebody else's by now."""
    async with database.connection() as connection:
        if not await connection.fetchval(sql("stream_renew"), *claim.key, claim.fence, lease_seconds):
            raise lost(claim)


async def read(connection: Connection, claim: Claim, *, along_seconds: float = 0.0) -> Position:
    """Reads how far the stream is: the first step of a transaction that works on it. `along_seconds`: for how
    long a scan by another connection's run counts as one of its own. Raises LeaseLost.
    """
    row = await connection.fetchrow(sql("stream_read"), *claim.key, claim.fence, along_seconds)
    if row is None:
        raise lost(claim)
    return Position(**dict(row))


async def prove(connection: Connection, claim: Claim) -> None:
    """Proves that the stream is still ours, and locks it until the commit: the last step of a transaction.
    Raises LeaseLost.

    Every transaction locks the windows that it writes first, and the stream after them, so none waits for
    another in a circle.
    """
    if not await connection.fetchval(sql("stream_lock"), *claim.key, claim.fence):
        raise lost(claim)


async def hold(connection: Connection, claim: Claim) -> None:
    """Shares the stream's row: the first step of a transaction that writes windows. Raises LeaseLost.

    Until the transaction ends no change of meters and no disconnection can begin. They lock the stream whole
    and then windows: without this they would wait for our windows while we wait for the stream.
    """
    if not await connection.fetchval(sql("stream_hold"), *claim.key, claim.fence):
        raise lost(claim)


async def hold_all(connection: Connection, connection_id: str) -> None:
    """As `hold`, for whoever writes windows of a connection without working on one of its streams."""
    await connection.execute(sql("stream_hold_all"), connection_id)


def lost(claim: Claim) -> LeaseLost:
    """What is raised when the stream is somebody else's by now."""
    return LeaseLost(f"stream {'/'.join(claim.key)} is worked on by another replica")


async def is_initial_pending(database: Database, claim: Claim) -> bool:
    """Whether the initial sync of the stream is not done yet."""
    pending: bool = await database.fetchval(sql("initial_pending"), claim.connection, claim.name)
    return pending


async def begin_again(
    connection: Connection,
    connection_id: str,
    name: str,
    *,
    days: int,
    max_backfill: timedelta | None,
    max_future: timedelta,
) -> None:
    """Has the initial phase walk the stored history once more. The incremental phase keeps its watermark and
    goes on beside it.
    """
    await connection.execute(
        sql("stream_begin"), connection_id, name, True, days, max_backfill, max_future, 0
    )


async def finish(
    database: Database,
    claim: Claim,
    *,
    state: str,
    next_in_seconds: float,
    attempts: int,
    error: str | None,
    succeeded: bool,
    tally: RunTally,
    started_at: datetime,
    put_off: int = 0,
    waits: bool = False,
    event: NewEvent | None = None,
) -> None:
    """Schedules the next run, gives the lease back, stores a record of a run that did something or failed,
    and appends the event. `waits`: nothing could be done, so failures before this run still count. One
    transaction; raises LeaseLost.
    """
    counts = (
        tally.samples,
        tally.delivered,
        tally.modified,
        tally.unchanged,
        tally.rejected,
        tally.retried,
    )
    how = (state, next_in_seconds, attempts, error, succeeded, tally.moved, put_off, waits)
    record = (started_at, "completed" if error is None else "failed", *counts)
    # Without an event the statement is a transaction by itself: one round trip in place of three.
    async with database.connection() if event is None else database.transaction() as connection:
        if not await connection.fetchval(sql("stream_finish"), *claim.key, claim.fence, *how, *record):
            raise lost(claim)
        if event is not None:
            await outbox.append(connection, event)

"""Streams: which are due, who works on them (lease and fence), and when they run next."""

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
    """A stream that is ours until its lease runs out. Every write proves the fence."""

    connection: str
    customer: str
    name: str
    phase: Phase
    fence: int
    attempts: int
    put_off: int = 0
    """Runs in a row that the system put off: they lengthen the wait, and give up nothing."""
    trial: bool = False
    """The connection is blocked: one reading may be pushed, to see whether it still is."""

    @property
    def key(self) -> tuple[str, str, Phase]:
        """What names the stream."""
        return (self.connection, self.name, self.phase)


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far a stream has come. Times are only set in the initial phase.

    `meters_of`: the configuration whose meters are in force, until the transaction ends. `is_scanned`: a run
    of another connection has just read the log to its end for this one too.
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
        """Whether the run changed anything that somebody sees."""
        return bool(self.delivered or self.modified or self.rejected or self.retried)

    @property
    def passed(self) -> bool:
        """Whether the system said for good of a reading that it takes it or does not."""
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
    """Takes up to `limit` due streams, of these connections or of all but those `without`; two replicas never
    get the same one.

    A lease of our own that no task of ours has `in_hand` ("connection/name/phase") was interrupted: it is
    taken again at once.
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
    """Of up to `limit` streams that are due, those with nothing to do are due an interval later. Whether
    there are others.
    """
    others: bool = await database.fetchval(sql("stream_rest"), limit)
    return others


async def seconds_to_next(database: Database) -> float | None:
    """How long until streams should be claimed that are not due yet. What is due in a moment waits for
    company, by its interval: of thousands that are idle one is due every few milliseconds.
    """
    seconds: float | None = await database.fetchval(sql("stream_next"))
    return seconds


async def give_back(database: Database, claim: Claim) -> None:
    """The stream is as it was: whoever can serve it takes it."""
    await database.execute(sql("stream_return"), *claim.key, claim.fence)


async def renew(database: Database, claim: Claim, lease_seconds: float) -> None:
    """Raises LeaseLost when the stream is somebody else's by now."""
    async with database.connection() as connection:
        if not await connection.fetchval(sql("stream_renew"), *claim.key, claim.fence, lease_seconds):
            raise lost(claim)


async def read(connection: Connection, claim: Claim, *, along_seconds: float = 0.0) -> Position:
    """The first step of a transaction that works on the stream. `along_seconds`: how long a scan by another
    connection's run counts as its own. Raises LeaseLost.
    """
    row = await connection.fetchrow(sql("stream_read"), *claim.key, claim.fence, along_seconds)
    if row is None:
        raise lost(claim)
    return Position(**dict(row))


async def prove(connection: Connection, claim: Claim) -> None:
    """The last step of a transaction: the stream is still ours, and is until the commit. Raises LeaseLost.

    Last, because every transaction takes the windows it writes first and the stream after them: none waits in
    a circle.
    """
    if not await connection.fetchval(sql("stream_lock"), *claim.key, claim.fence):
        raise lost(claim)


async def may_call(database: Database, claim: Claim, configuration: int) -> bool:
    """Whether the connection may call its system, by a link of this configuration: somebody may have paused
    it since the claim, or given it other settings.
    """
    allowed: bool = await database.fetchval(sql("may_call"), claim.connection, claim.trial, configuration)
    return allowed


async def hold(connection: Connection, claim: Claim) -> None:
    """The first step of a transaction that writes windows. Raises LeaseLost.

    Until the transaction ends no change of meters and no disconnection begins: they take the stream whole and
    then windows, and would wait for ours while we wait for the stream.
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
    """Whether the stream's history is not delivered yet."""
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
    """The initial phase walks the stored history once more; the incremental one goes on beside it."""
    # the incremental phase is there and keeps its watermark
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
    """Schedules the next run, gives the lease back, keeps a record of a run that moved or failed, and tells.
    `waits`: nothing could be done, and what failed before is still so. One transaction; raises LeaseLost.
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
    # without an event the statement is the transaction: a round trip and not three
    async with database.connection() if event is None else database.transaction() as connection:
        if not await connection.fetchval(sql("stream_finish"), *claim.key, claim.fence, *how, *record):
            raise lost(claim)
        if event is not None:
            await outbox.append(connection, event)

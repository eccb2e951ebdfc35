"""Inbound streams: which are due, who reads them (lease and fence), and the page that a reader applies.

Whoever applies a page takes the stream's row, then the customer's record log, then records: no two of them
wait in a circle, and the fence is proved for as long as the transaction lasts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from gateway.model.errors import LeaseLost
from gateway.model.event import EventType, NewEvent
from gateway.model.record import Kept, LogPlace, Phase, may_vanish, write_cursor
from gateway.store import outbox
from gateway.store.pool import Connection, Database
from gateway.store.queries import sql

AT_ONCE = 500
"""Records in one statement: what is sent is written on the event loop, in a few milliseconds."""

MISSED_TWICE, CONFIRMED = 1, 3
"""How sure it is that a record is gone: `unseen` of it before the walk that does not meet it either."""

RESUME_SECONDS = 600.0
"""A walk whose last page is older begins again: what a system keeps for a cursor may be gone, or stale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
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
class Position:
    """How far a phase has come. Times are the system's; `walk_cursor` where a walk can be gone on with.
    `position`: of the customer's record log.
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


Done = Literal["high", "open", "walk"]
"""What the last page of a walk completes: an interval, the list of what is open, a walk of all keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One page, ready to be stored. `cursor` None: it was the last of its walk.

    asked: the position of the record log before the page was asked for; a record that changed since is only
    replaced by what is later by the system's own time. None: the page has the last word. sees_all: the walk
    meets every key, and what it has not met is gone. keys: of a walk of keys alone.
    """

    records: Sequence[Kept]
    low: datetime | None
    high: datetime
    cursor: str | None
    begins: bool
    done: Done
    total: int | None = None
    asked: int | None = None
    sees_all: bool = False
    keys: Sequence[str] = ()
    walk_position: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What a page changed. `position`: of the record log after it. refused: new records beyond the limit.
    vanished: what a person has to confirm; missing: what the next walk decides about.
    """

    created: int = 0
    modified: int = 0
    deleted: int = 0
    refused: int = 0
    position: int = 0
    vanished: int = 0
    missing: int = 0
    alive: int = 0

    @property
    def changed(self) -> int:
        """How many records."""
        return self.created + self.modified + self.deleted


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
) -> list[Claim]:
    """As `streams.claim`."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            sql("inbound_claim"), owner, lease_seconds, list(connections), limit, list(in_hand)
        )
    return [
        Claim(
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


async def seconds_to_next(database: Database, connections: Sequence[str]) -> float | None:
    """As `streams.seconds_to_next`."""
    async with database.connection() as connection:
        seconds: float | None = await connection.fetchval(sql("inbound_next"), list(connections))
    return seconds


async def renew(database: Database, claim: Claim, lease_seconds: float) -> None:
    """Raises LeaseLost when the stream is somebody else's by now."""
    async with database.connection() as connection:
        if not await connection.fetchval(sql("inbound_renew"), *claim.fenced, lease_seconds):
            raise lost(claim)


async def read(database: Database, claim: Claim) -> Position:
    """Where it is. Raises LeaseLost."""
    async with database.connection() as connection:
        row = await connection.fetchrow(sql("inbound_read"), *claim.fenced, RESUME_SECONDS)
    if row is None:
        raise lost(claim)
    return Position(**dict(row))


async def set_origin(database: Database, claim: Claim, now: datetime) -> Position:
    """Where history ends and news begin, by the system's clock: the same for all phases of the stream."""
    async with database.connection() as connection:
        await connection.execute(sql("inbound_origin"), *claim.of, now, claim.phase)
    return await read(database, claim)


async def abandon(database: Database, claim: Claim) -> None:
    """The walk in hand begins again at its first page."""
    async with database.connection() as connection:
        await connection.execute(sql("inbound_abandon"), *claim.fenced)


async def begin_walk(database: Database, claim: Claim, position: int) -> None:
    """A walk of all keys begins. Raises LeaseLost."""
    async with database.connection() as connection:
        if not await connection.fetchval(sql("inbound_walk"), *claim.fenced, position):
            raise lost(claim)


async def apply(database: Database, claim: Claim, step: Step, *, max_records: int) -> Applied:
    """One transaction: the page's records, how far the walk is, and with its last page what it completes.

    Raises LeaseLost, and then nothing is stored. Idempotent: a page that is applied again changes nothing.
    """
    async with database.transaction() as connection:
        await hold(connection, claim)
        if step.begins and step.sees_all:
            await connection.execute(sql("record_seen_clear"), *claim.of)
        if step.keys:
            await connection.execute(sql("record_seen_add"), *claim.of, list(step.keys))
        is_last = step.cursor is None
        applied, before, revived = Applied(), None, 0
        if step.records or (is_last and step.sees_all):
            applied, before, revived = await _apply(connection, claim, step, max_records)
        await _advance(connection, claim, step, applied, before, revived)
    return applied


async def hold(connection: Connection, claim: Claim) -> None:
    """The first step of a transaction that applies a page. Raises LeaseLost.

    Until it ends no other replica takes the lease: a page is stored whole under one fence, or not at all.
    """
    if not await connection.fetchval(sql("inbound_hold"), *claim.fenced):
        raise lost(claim)


async def _apply(
    connection: Connection, claim: Claim, step: Step, max_records: int
) -> tuple[Applied, int, int]:
    """What changed, the position of the log before it, and how many deleted records are there again."""
    log = await connection.fetchrow(sql("record_log_lock"), claim.customer)
    count = await connection.fetchrow(sql("inbound_count_read"), *claim.of)
    assert log is not None and count is not None
    position, at, revived, applied = log["position"], log["at"], 0, Applied(position=log["position"])
    for first in range(0, len(step.records), AT_ONCE):
        part = step.records[first : first + AT_ONCE]
        row = await connection.fetchrow(
            sql("record_apply"),
            *claim.of,
            *_columns(part),
            applied.position,
            at,
            max(0, max_records - count["held"] - applied.created),
            step.asked,
            step.sees_all,
        )
        assert row is not None
        revived += row["revived"]
        applied = Applied(
            created=applied.created + row["created"],
            modified=applied.modified + row["modified"],
            deleted=applied.deleted + row["deleted"],
            refused=applied.refused + row["refused"],
            position=applied.position + row["created"] + row["modified"] + row["deleted"],
        )
    if step.records:
        await _tell_cut(connection, claim, step.records)
    if step.cursor is None and step.sees_all:
        alive = count["alive"] + applied.created - applied.deleted + revived
        applied = await _reconcile(connection, claim, step, applied, at, alive)
    return applied, position, revived


async def _reconcile(
    connection: Connection, claim: Claim, step: Step, applied: Applied, at: datetime, alive: int
) -> Applied:
    """What two whole walks in a row have not met is deleted; a single one may have missed what moved
    meanwhile.
    """
    row = await connection.fetchrow(sql("record_missing"), *claim.of, step.walk_position)
    assert row is not None
    deleted = vanished = 0
    # what a person confirmed goes by itself, and is no word about what else is missing by now
    sure = MISSED_TWICE
    if not may_vanish(row["again"], alive - row["confirmed"]):
        sure, vanished = CONFIRMED, row["again"]
    if row["confirmed"] or (row["again"] and not vanished):
        deleted = await connection.fetchval(
            sql("record_vanish"), *claim.of, step.walk_position, applied.position, at, sure
        )
    if row["missing"] or row["found"] or vanished:
        await connection.execute(sql("record_unseen"), *claim.of, step.walk_position)
    await connection.execute(sql("record_seen_clear"), *claim.of)
    await connection.execute(sql("inbound_vanished"), *claim.of, claim.phase, vanished)
    return Applied(
        created=applied.created, modified=applied.modified, deleted=applied.deleted + deleted, refused=applied.refused,
        position=applied.position + deleted, vanished=vanished, missing=row["missing"], alive=alive - deleted,
    )  # fmt: skip


async def _advance(
    connection: Connection, claim: Claim, step: Step, applied: Applied, before: int | None, revived: int
) -> None:
    count = len(step.records) or len(step.keys)
    changes = (applied.created, applied.modified, applied.deleted, revived, before, step.begins, step.done)
    row = (step.low, step.high, step.cursor, count, step.total, *changes)
    if not await connection.fetchval(sql("inbound_applied"), *claim.fenced, *row):
        raise lost(claim)


async def _tell_cut(connection: Connection, claim: Claim, records: Sequence[Kept]) -> None:
    """Dead letters of what is not kept whole, in one order."""
    cut = sorted((f"{claim.stream}/{kept.key}", kept.fault) for kept in records if kept.fault is not None)
    if cut:
        digests = [
            hashlib.blake2b(f"{claim.connection}\0{what}".encode(), digest_size=16).digest()
            for what, _ in cut
        ]
        what, faults = [name for name, _ in cut], [fault for _, fault in cut]
        await connection.execute(
            sql("record_dead_letter"), claim.customer, claim.connection, digests, what, "record_cut", faults
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
    put_off: int = 0,
    event: NewEvent | None = None,
) -> None:
    """Schedules the next run, gives the lease back, and tells what changed since it was last told. One
    transaction; raises LeaseLost.
    """
    async with database.transaction() as connection:
        # the connection's row before the stream's, as every transition takes them
        await connection.execute(sql("connection_lock"), claim.connection)
        how = (state, next_in_seconds, attempts, error, succeeded, put_off, True)
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
    return [StreamProgress(connection=row["connection_id"], **{k: v for k, v in row.items() if k != "connection_id"}) for row in rows]  # fmt: skip


def lost(claim: Claim) -> LeaseLost:
    """What is raised when the stream is somebody else's by now."""
    return LeaseLost(f"inbound stream {'/'.join(claim.key)} is worked on by another replica")


def _columns(records: Sequence[Kept]) -> tuple[list[object], ...]:
    return (
        [kept.key for kept in records],
        [kept.body.decode() for kept in records],
        [kept.hash for kept in records],
        [kept.source_modified_at for kept in records],
        [kept.deleted for kept in records],
        [kept.truncated for kept in records],
        [kept.progress for kept in records],
        [kept.reference for kept in records],
    )

"""A page of an inbound stream, stored whole under its lease.

Whoever applies a page takes the stream's row, then the customer's record log, then records: no two of them
wait in a circle, and the fence is proved for as long as the transaction lasts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from gateway.model.record import Kept, may_vanish
from gateway.store.inbound import CLOCK_OFF, Done, InboundClaim, SystemClock, lost
from gateway.store.pool import Connection, Database
from gateway.store.queries import sql

AT_ONCE = 500
"""Records in one statement."""

MISSED_TWICE, CONFIRMED = 1, 3
"""How sure it is that a record is gone: `unseen` of it before the walk that does not meet it either. A second
time missed is 2, and a person may confirm that; what is confirmed is 3.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkStep:
    """One page, ready to be stored. `cursor` None: it was the last of its walk.

    asked: the position of the record log before the page was asked for; a record that changed since is only
    replaced by what is later by the system's own time. None: the page has the last word. sees_all: the walk
    meets every key, and what it has not met is gone. keys: of a walk of keys alone. clock: of the
    system, where `high` was made from it.
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
    clock: SystemClock | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What a page changed. `position`: of the record log after it. revived: of the modified, those that were
    deleted before. refused: new records beyond the limit. vanished: what a person has to confirm; missing:
    what the next walk decides about. may_call: whether the connection may still call its system.
    """

    created: int = 0
    modified: int = 0
    deleted: int = 0
    revived: int = 0
    refused: int = 0
    position: int = 0
    vanished: int = 0
    missing: int = 0
    alive: int = 0
    may_call: bool = True

    @property
    def changed(self) -> int:
        """How many records."""
        return self.created + self.modified + self.deleted


async def apply(
    database: Database,
    claim: InboundClaim,
    step: WalkStep,
    *,
    max_records: int,
    configuration: int = 0,
    at_once: int = AT_ONCE,
) -> Applied:
    """One transaction: the page's records, how far the walk is, and with its last page what it completes.
    `configuration`: of the link that the page came by.

    Raises LeaseLost, and then nothing is stored. Idempotent: a page that is applied again changes nothing.
    """
    async with database.transaction() as connection:
        may_call = await hold(connection, claim, configuration)
        if step.begins and step.sees_all:
            await connection.execute(sql("record_seen_clear"), *claim.of)
        if step.keys:
            await connection.execute(sql("record_seen_add"), *claim.of, list(step.keys))
        is_last = step.cursor is None
        applied, before = Applied(), None
        if step.records or (is_last and step.sees_all):
            applied, before = await _apply(connection, claim, step, max_records, at_once)
        await _advance(connection, claim, step, applied, before)
    return replace(applied, may_call=may_call)


async def hold(connection: Connection, claim: InboundClaim, configuration: int) -> bool:
    """The first step of a transaction that applies a page; whether the connection may still call its system,
    by this link. Raises LeaseLost.

    Until it ends no other replica takes the lease: a page is stored whole under one fence, or not at all.
    """
    row = await connection.fetchrow(sql("inbound_hold"), *claim.fenced, configuration)
    if row is None:
        raise lost(claim)
    return bool(row[0])


async def _apply(
    connection: Connection, claim: InboundClaim, step: WalkStep, max_records: int, at_once: int
) -> tuple[Applied, int]:
    """What changed, and the position of the log before it."""
    log = await connection.fetchrow(sql("record_log_lock"), claim.customer)
    count = await connection.fetchrow(sql("inbound_count_read"), *claim.of)
    assert log is not None and count is not None
    position, at, applied = log["position"], log["at"], Applied(position=log["position"])
    for first in range(0, len(step.records), at_once):
        part = step.records[first : first + at_once]
        row = await connection.fetchrow(
            sql("record_apply"),
            *claim.of,
            *_columns(part),
            applied.position,
            at,
            max(0, max_records - count["held"] - applied.created),
            step.asked,
            step.sees_all,
            None if step.clock is None else step.clock.ahead + CLOCK_OFF,
            None if step.clock is None else step.clock.read_to,
        )
        assert row is not None
        applied = Applied(
            created=applied.created + row["created"],
            modified=applied.modified + row["modified"],
            deleted=applied.deleted + row["deleted"],
            revived=applied.revived + row["revived"],
            refused=applied.refused + row["refused"],
            position=applied.position + row["created"] + row["modified"] + row["deleted"],
        )
    if step.records:
        await _tell_cut(connection, claim, step.records)
    if step.cursor is None and step.sees_all:
        applied = await _reconcile(connection, claim, step, applied, at, count["alive"])
    return applied, position


async def _reconcile(
    connection: Connection, claim: InboundClaim, step: WalkStep, applied: Applied, at: datetime, before: int
) -> Applied:
    """What two whole walks in a row have not met is deleted, until one meets it again; a single one may have
    missed what moved meanwhile. `before`: how many records were there before the page.
    """
    returned: int = await connection.fetchval(
        sql("record_return"), *claim.of, step.walk_position, applied.position, at
    )
    applied = replace(
        applied,
        modified=applied.modified + returned,
        revived=applied.revived + returned,
        position=applied.position + returned,
    )
    alive = before + applied.created - applied.deleted + applied.revived
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
    return replace(
        applied,
        deleted=applied.deleted + deleted,
        position=applied.position + deleted,
        vanished=vanished,
        missing=row["missing"],
        alive=alive - deleted,
    )


async def _advance(
    connection: Connection,
    claim: InboundClaim,
    step: WalkStep,
    applied: Applied,
    before: int | None,
) -> None:
    count = len(step.records) or len(step.keys)
    changes = (
        applied.created,
        applied.modified,
        applied.deleted,
        applied.revived,
        before,
        step.begins,
        step.done,
    )
    row = (
        step.low,
        step.high,
        step.cursor,
        count,
        step.total,
        *changes,
        None if step.clock is None else step.clock.asked_at,
    )
    if not await connection.fetchval(sql("inbound_applied"), *claim.fenced, *row):
        raise lost(claim)


async def _tell_cut(connection: Connection, claim: InboundClaim, records: Sequence[Kept]) -> None:
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

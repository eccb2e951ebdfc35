"""Stores what became of readings: deliveries, dead letters, waits and intents, each batch in one transaction
that proves the fence.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime

import orjson

from gateway import clock
from gateway.model.delivery import DueWindow, Refusal
from gateway.model.errors import LeaseLost
from gateway.model.event import EventType, NewEvent
from gateway.model.reading import Batch, Reading
from gateway.model.sample import Value
from gateway.store import outbox, streams, withheld
from gateway.store.pool import Connection, Database
from gateway.store.queries import sql
from gateway.store.streams import Claim

SAMPLE = 5
"""How many dead letters of a batch its event shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """A value that the system holds now."""

    meter: str
    window_start: datetime
    value: Value
    remote_id: str | None
    modified: bool
    due: DueWindow


@dataclass(slots=True, kw_only=True)
class BatchResults:
    """Everything that one batch decided, written together by `commit`."""

    delivered: list[Delivered] = field(default_factory=list)
    settled: list[DueWindow] = field(default_factory=list)
    dead: list[Refusal] = field(default_factory=list)
    waiting: Mapping[str, float] = field(default_factory=dict)  # meter -> seconds
    retried: list[DueWindow] = field(default_factory=list)
    doubted: list[Reading] = field(default_factory=list)
    """Sent, and nobody knows whether the system has them."""
    ask_in_seconds: float = 0.0
    """When what is in doubt may be asked for or sent again."""
    position_held: int | None = None
    """The position that the system holds, where it is later than ours: later ones are given out from now on.
    """

    is_outdated: bool = True
    """After `commit`: whether windows may be due again already, for samples that came meanwhile."""

    def __bool__(self) -> bool:
        return bool(
            self.delivered
            or self.settled
            or self.dead
            or self.waiting
            or self.retried
            or self.doubted
            or self.position_held
        )

    @property
    def is_plain(self) -> bool:
        """Whether one statement can record them: each window was delivered or needed nothing, none was in
        doubt, and none has a deadband.
        """
        return not (
            self.dead
            or self.waiting
            or self.retried
            or self.doubted
            or self.position_held
            or any(made.due.doubt is not None or made.due.deadband > 0 for made in self.delivered)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """The intent of a batch that is about to be sent. At `proved_monotonic` the fence was proved to be ours,
    and the lease began anew.
    """

    position: int
    proved_monotonic: float


async def commit(
    database: Database,
    claim: Claim,
    results: BatchResults,
    *,
    resolved: bool = False,
    next_readings: Sequence[Reading] = (),
    lease_seconds: float = 0.0,
    configuration: int = 0,
) -> Intent | None:
    """Stores deliveries, dead letters, waits and doubts, and removes the marks of their windows: all of it,
    or nothing where LeaseLost is raised.

    `resolved`: removes the intent of the batch as well. With `next_readings` an intent of these takes its
    place and is returned: they may be pushed now, but not much later. None, and no intent, where the
    connection may not call its system any more, or not by the link of this `configuration`.
    """
    if results.is_plain and (resolved or next_readings):
        return await _record(database, claim, results, next_readings, lease_seconds, configuration)
    async with database.transaction() as connection:
        await streams.hold(connection, claim)
        await _write(connection, claim, results)
        if next_readings:
            return await _record_intent(connection, claim, next_readings, lease_seconds, configuration)
        if resolved:
            await connection.execute(sql("intent_remove"), *claim.key)
        await streams.prove(connection, claim)
    return None


async def _record(
    database: Database,
    claim: Claim,
    results: BatchResults,
    next_readings: Sequence[Reading],
    lease_seconds: float,
    configuration: int,
) -> Intent | None:
    """As `commit` for plain results: one statement, which takes the same locks in the same order."""
    delivered, settled = results.delivered, results.settled
    gone = [made.due for made in delivered] + settled
    following = _columns(next_readings) if next_readings else (None, None, None)
    # Taken before the proof, so that the lease is never believed to last longer than it does.
    proved_monotonic = clock.monotonic()
    try:
        row = await database.fetchrow(
            sql("batch_record"),
            *claim.key,
            claim.fence,
            lease_seconds,
            *_places(gone),
            [orjson.dumps(made.value).decode() for made in delivered] + [None] * len(settled),
            [made.remote_id for made in delivered] + [None] * len(settled),
            [due.mark for due in gone],
            *following,
            claim.trial,
            configuration,
        )
    except LeaseLost:
        raise streams.lost(claim) from None
    assert row is not None
    results.is_outdated = row["is_outdated"]
    return _intent(row["position"], proved_monotonic)


async def _write(connection: Connection, claim: Claim, results: BatchResults) -> None:
    """Dead letters come before windows, and windows before all else: every transaction that locks both keeps
    this order, so none waits for another in a circle.
    """
    gone = (
        results.settled + [made.due for made in results.delivered] + [refusal.due for refusal in results.dead]
    )
    compared = [(made.meter, made.window_start) for made in results.delivered if made.due.deadband > 0]
    if compared:
        await withheld.lock(connection, claim)
    if results.dead:
        await _record_dead_letters(connection, claim, results.dead)
    if results.retried:
        await connection.execute(sql("due_lock"), claim.connection, *_places(results.retried + gone))
        await connection.execute(sql("due_retry"), claim.connection, *_places(results.retried))
    if gone:
        await connection.execute(
            sql("due_remove"), claim.connection, *_places(gone), [due.mark for due in gone]
        )
    if results.waiting:
        meters = sorted(results.waiting)
        await connection.execute(
            sql("meter_retry"), claim.connection, meters, [results.waiting[meter] for meter in meters]
        )
    if results.delivered:
        await _record_deliveries(connection, claim, results.delivered)
        await withheld.compared_anew(connection, claim, compared)
    known = [(made.due, made.due.doubt) for made in results.delivered if made.due.doubt is not None]
    if known:
        places = _places([due for due, _ in known])
        await connection.execute(
            sql("doubt_remove"), claim.connection, *places, [doubt for _, doubt in known]
        )
    if results.doubted:
        await connection.execute(
            sql("doubt_record"), claim.connection, *_columns(results.doubted), results.ask_in_seconds
        )
    if results.dead:
        await _tell_dead_letters(connection, claim, results.dead)
    if results.position_held is not None:
        await connection.execute(sql("clock_pass"), claim.connection, results.position_held)


async def _record_intent(
    connection: Connection,
    claim: Claim,
    readings: Sequence[Reading],
    lease_seconds: float,
    configuration: int,
) -> Intent | None:
    # Taken before the proof, so that the lease is never believed to last longer than it does.
    proved_monotonic = clock.monotonic()
    row = await connection.fetchrow(
        sql("intent_record"),
        *claim.key,
        claim.fence,
        lease_seconds,
        *_columns(readings),
        claim.trial,
        configuration,
    )
    if row is None:
        raise streams.lost(claim)
    return _intent(row["position"], proved_monotonic)


def _intent(position: int | None, proved_monotonic: float) -> Intent | None:
    return None if position is None else Intent(position=position, proved_monotonic=proved_monotonic)


async def is_resolved(database: Database, claim: Claim) -> bool:
    """Whether the stream has no intent: no batch of it may be on its way."""
    resolved: bool = await database.fetchval(sql("intent_none"), *claim.key)
    return resolved


async def is_in_doubt(database: Database, claim: Claim) -> bool:
    """Whether a window of the connection is in doubt."""
    doubted: bool = await database.fetchval(
        "select exists (select from delivery_doubt where connection_id = $1)", claim.connection
    )
    return doubted


async def resolve(database: Database, claim: Claim, *, wait_seconds: float) -> int:
    """Puts the windows of an intent that an earlier run left in doubt, and removes the intent. Returns how
    many windows they are. They are not asked for or sent until `wait_seconds` after the intent was recorded:
    by then its push has arrived, or never will. Raises LeaseLost.
    """
    async with database.transaction() as connection:
        await streams.hold(connection, claim)
        count: int = await connection.fetchval(sql("intent_resolve"), *claim.key, wait_seconds)
        await streams.prove(connection, claim)
    return count


async def doubt_late_push(database: Database, claim: Claim, batch: Batch) -> bool:
    """Puts the windows of a batch in doubt whose push may have arrived after our lease was lost, so that
    whoever holds it by now looks at them again. False where the intent is still there: then the holder will
    do so by itself.

    This is the only write here that proves no fence: a doubt too many costs a call, and never a value.
    """
    async with database.transaction() as connection:
        await streams.hold_all(connection, claim.connection)  # as whoever writes windows does
        if await connection.fetchval(sql("intent_exists"), *claim.key, batch.position):
            return False
        meters, starts, values = _columns(batch.readings)
        await connection.execute(sql("doubt_mark"), claim.connection, meters, starts)
        await connection.execute(sql("doubt_record"), claim.connection, meters, starts, values, 0.0)
    return True


async def ensure_days(database: Database, days: Collection[date]) -> None:
    """Makes the partitions for deliveries of these days, each in a transaction of its own and before a batch
    needs it: so no batch waits for the lock of a table while it holds rows.
    """
    for day in sorted(days):
        await database.execute("select ensure_partition('delivery', $1)", day)


def _places(windows: Sequence[DueWindow]) -> tuple[list[str], list[datetime]]:
    return [due.meter for due in windows], [due.window_start for due in windows]


def _columns(readings: Sequence[Reading]) -> tuple[list[str], list[datetime], list[str]]:
    return (
        [reading.meter for reading in readings],
        [reading.window_start for reading in readings],
        [orjson.dumps(reading.value).decode() for reading in readings],
    )


async def _record_deliveries(connection: Connection, claim: Claim, delivered: Sequence[Delivered]) -> None:
    await connection.execute(
        sql("delivery_record"),
        claim.connection,
        [made.meter for made in delivered],
        [made.window_start for made in delivered],
        [orjson.dumps(made.value).decode() for made in delivered],
        [made.remote_id for made in delivered],
    )


async def _tell_dead_letters(connection: Connection, claim: Claim, refusals: Sequence[Refusal]) -> None:
    """Appends one event for all dead letters of a batch, with the first few as a sample."""
    reasons = Counter(refusal.reason for refusal in refusals)
    sample = [
        {
            "meter": r.due.meter,
            "window_start": r.due.window_start.isoformat(),
            "reason": r.reason,
            "detail": r.detail,
        }
        for r in refusals[:SAMPLE]
    ]
    data: dict[str, object] = {"count": len(refusals), "reasons": dict(reasons), "sample": sample}
    await outbox.append(
        connection,
        NewEvent(
            type=EventType.READING_DEAD_LETTERED,
            customer=claim.customer,
            connection=claim.connection,
            data=data,
        ),
    )


async def _record_dead_letters(connection: Connection, claim: Claim, refusals: Sequence[Refusal]) -> None:
    payloads = [
        orjson.dumps(
            {
                "meter": r.due.meter,
                "window_start": r.due.window_start,
                "value": r.due.value,
                "unit": r.due.unit,
            }
        )
        for r in refusals
    ]
    digests = [
        hashlib.blake2b(
            f"{claim.connection}\0{r.due.meter}\0{r.due.window_start.isoformat()}".encode(), digest_size=16
        ).digest()
        for r in refusals
    ]
    await connection.execute(
        sql("reading_dead_letter"),
        claim.customer,
        claim.connection,
        [r.due.meter for r in refusals],
        [r.due.window_start for r in refusals],
        [r.reason for r in refusals],
        [r.detail for r in refusals],
        payloads,
        digests,
    )

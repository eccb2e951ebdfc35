"""What became of readings: deliveries, dead letters, waits and intents, each batch in one fenced transaction."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import orjson

from gateway.model.delivery import DueWindow, Refusal
from gateway.model.event import EventType, NewEvent
from gateway.model.reading import Batch, Reading
from gateway.model.sample import Value
from gateway.store import outbox, streams, withheld
from gateway.store.pool import Connection, Database
from gateway.store.queries import sql
from gateway.store.streams import Claim

SAMPLE = 5
"""Dead letters of a batch that its event shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """A value that the system holds now. `due` is None when only the delivery is known (a reconciled intent)."""

    meter: str
    window_start: datetime
    value: Value
    remote_id: str | None
    due: DueWindow | None


@dataclass(slots=True, kw_only=True)
class Results:
    """Everything that one batch decided, written together by `commit`."""

    delivered: list[Delivered] = field(default_factory=list)
    settled: list[DueWindow] = field(default_factory=list)
    dead: list[Refusal] = field(default_factory=list)
    waiting: Mapping[str, float] = field(default_factory=dict)  # meter -> seconds
    retried: list[DueWindow] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A batch that was about to be sent when its writer died or lost the answer."""

    batch_id: str
    readings: tuple[Reading, ...]
    age_seconds: float


async def commit(
    database: Database,
    claim: Claim,
    results: Results,
    *,
    batch_id: str | None = None,
    unknown: Sequence[Reading] = (),
) -> None:
    """Deliveries, dead letters, waits and the removal of the marks they came from, or nothing. Raises
    LeaseLost.

    The intent `batch_id` goes too, or keeps the readings that are still `unknown`.
    """
    gone = (
        results.settled
        + [made.due for made in results.delivered if made.due is not None]
        + [refusal.due for refusal in results.dead]
    )
    gone.sort(key=_place)
    async with database.transaction() as connection:
        if results.delivered:
            await _record_deliveries(connection, claim, results.delivered)
            await withheld.compared_anew(connection, claim, _with_deadband(results.delivered))
        if results.dead:
            await _record_dead_letters(connection, claim, results.dead)
            await _tell_dead_letters(connection, claim, results.dead)
        if results.retried:
            await connection.execute(sql("due_lock"), claim.connection, *_places(results.retried + gone))
            await connection.execute(sql("due_retry"), claim.connection, *_places(results.retried))
        if results.waiting:
            meters = sorted(results.waiting)
            await connection.execute(
                sql("meter_retry"), claim.connection, meters, [results.waiting[meter] for meter in meters]
            )
        if gone:
            await connection.execute(
                sql("due_remove"), claim.connection, *_places(gone), [due.mark for due in gone]
            )
        if batch_id is not None and unknown:
            await connection.execute(sql("intent_narrow"), *claim.key, batch_id, _as_json(unknown))
        elif batch_id is not None:
            await connection.execute(sql("intent_remove"), *claim.key, batch_id)
        await streams.prove(connection, claim)


async def record_intent(database: Database, claim: Claim, batch: Batch) -> None:
    """Before a push whose repetition could harm: what is about to be sent. Fenced, in a transaction of its
    own.
    """
    async with database.transaction() as connection:
        await connection.execute(sql("intent_record"), *claim.key, batch.id, _as_json(batch.readings))
        await streams.prove(connection, claim)


async def read_intent(database: Database, claim: Claim) -> Intent | None:
    """The batch whose outcome nobody recorded, if there is one."""
    async with database.connection() as connection:
        row = await connection.fetchrow(sql("intent_read"), *claim.key)
    if row is None:
        return None
    readings = tuple(
        Reading(**{**item, "window_start": datetime.fromisoformat(item["window_start"])})
        for item in row["readings"]
    )
    return Intent(batch_id=row["batch_id"], readings=readings, age_seconds=row["age_seconds"])


def _place(due: DueWindow) -> tuple[str, datetime]:
    return due.meter, due.window_start


def _places(windows: Sequence[DueWindow]) -> tuple[list[str], list[datetime]]:
    return [due.meter for due in windows], [due.window_start for due in windows]


def _with_deadband(delivered: Sequence[Delivered]) -> list[tuple[str, datetime]]:
    """Those that others may have been compared with; of a reconciled intent nobody knows."""
    return [
        (made.meter, made.window_start) for made in delivered if made.due is None or made.due.deadband > 0
    ]


def _as_json(readings: Sequence[Reading]) -> list[dict[str, object]]:
    return [
        {
            "key": r.key,
            "meter": r.meter,
            "window_start": r.window_start.isoformat(),
            "value": r.value,
            "unit": r.unit,
            "modified": r.modified,
        }
        for r in readings
    ]


async def _record_deliveries(connection: Connection, claim: Claim, delivered: Sequence[Delivered]) -> None:
    for day in sorted({made.window_start.date() for made in delivered}):
        await connection.execute("select ensure_partition('delivery', $1)", day)
    await connection.execute(
        sql("delivery_record"),
        claim.connection,
        [made.meter for made in delivered],
        [made.window_start for made in delivered],
        [orjson.dumps(made.value).decode() for made in delivered],
        [made.remote_id for made in delivered],
    )


async def _tell_dead_letters(connection: Connection, claim: Claim, refusals: Sequence[Refusal]) -> None:
    """One event for what one batch lost, with a sample: not one for each reading."""
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

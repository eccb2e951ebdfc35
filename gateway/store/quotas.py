"""Quotas in PostgreSQL: what came over them and since when, and what is stored of each customer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from math import inf

from gateway.model.event import EventType, NewEvent
from gateway.model.quota import BURST_SECONDS, Excess, QuotaKind
from gateway.store import outbox
from gateway.store.pool import Connection, Database, Record
from gateway.store.queries import filtered, sql

NO_CUSTOMER = ""
"""In the table, where a key cannot be null: what is None here."""

MAX_NOTED = 10_000

CALM_SECONDS = BURST_SECONDS
CALM = timedelta(seconds=CALM_SECONDS)
"""Nothing came over the quota for so long: that is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverQuota:
    """A time in which a customer (None: nobody's messages) sent or held more than its quota."""

    customer: str | None
    quota: QuotaKind
    allowed: float
    device: str | None
    since: datetime
    last_at: datetime
    dead_letters: int
    dropped: int
    dropped_bytes: int
    slowed_seconds: float


async def note(connection: Connection, excesses: Sequence[Excess]) -> tuple[Excess, ...]:
    """Adds them in the caller's transaction: with what they are about it is told, or neither is. Returns
    those of which it begins now; each customer is told so by an event, once.
    """
    rows = await connection.fetch(
        sql("quota_note"),
        [one.customer or NO_CUSTOMER for one in excesses],
        [one.kind for one in excesses],
        [one.allowed for one in excesses],
        [one.device for one in excesses],
        [one.dead_letters for one in excesses],
        [one.dropped for one in excesses],
        [one.dropped_bytes for one in excesses],
        [one.slowed_seconds for one in excesses],
    )
    opened = [row for row in rows if row["opened"]]
    for row in opened:
        data = {"quota": row["quota"], "allowed": _number(row["allowed"])}
        if row["device_id"] is not None:
            data["device"] = row["device_id"]
        await outbox.append(
            connection,
            NewEvent(type=EventType.QUOTA_EXCEEDED, customer=row["customer_id"] or None, data=data),
        )
    begun = {(row["customer_id"] or None, row["quota"]) for row in opened}
    return tuple(one for one in excesses if (one.customer, one.kind) in begun)


class ToldExcesses:
    """Which quotas are known to be exceeded, and told: what more comes over them is only counted, by the
    statement that stores the samples beside it.
    """

    def __init__(self) -> None:
        self._noted: dict[tuple[str | None, QuotaKind], float] = {}

    def covers(self, excesses: Sequence[Excess], now: float) -> bool:
        """Whether all of them are; long before they could be over again, by whoever's clock."""
        return bool(excesses) and all(
            now - self._noted.get((one.customer, one.kind), -inf) < CALM_SECONDS / 2 for one in excesses
        )

    def note(self, excesses: Sequence[Excess], now: float) -> None:
        """They are stored."""
        if len(self._noted) >= MAX_NOTED:
            self._noted.clear()
        for one in excesses:
            self._noted[one.customer, one.kind] = now

    def clear(self) -> None:
        """One of them is not exceeded any more."""
        self._noted.clear()


def document(excesses: Sequence[Excess]) -> list[dict[str, object]]:
    """As the function `add_excess` wants them."""
    return [
        {
            "customer": one.customer or NO_CUSTOMER,
            "quota": one.kind,
            "allowed": one.allowed,
            "dead_letters": one.dead_letters,
            "dropped": one.dropped,
            "dropped_bytes": one.dropped_bytes,
        }
        for one in excesses
    ]


async def end_calm(database: Database) -> list[OverQuota]:
    """Those that are over now, whoever saw them; each customer is told by an event that sums up."""
    async with database.transaction() as connection:
        ended = [_over(row) for row in await connection.fetch(sql("quota_end"), CALM)]
        for one in ended:
            data = {
                "quota": one.quota,
                "allowed": _number(one.allowed),
                "since": one.since.isoformat(),
                "dead_letters": one.dead_letters,
                "dropped": one.dropped,
                "dropped_bytes": one.dropped_bytes,
                "slowed_seconds": round(one.slowed_seconds, 1),
            }
            event = NewEvent(type=EventType.QUOTA_RECOVERED, customer=one.customer, data=data)
            await outbox.append(connection, event)
    return ended


async def over(
    database: Database, customer: str | None, *, after: tuple[str, str] = ("", ""), limit: int
) -> list[OverQuota]:
    """Who is over a quota now, by customer and quota; of one customer, or of all."""
    async with database.connection() as connection:
        return [
            _over(row) for row in await connection.fetch(*filtered("quota_excesses", customer, *after, limit))
        ]


async def counts(database: Database) -> Mapping[str, int]:
    """How many customers are over each quota."""
    async with database.connection() as connection:
        return {row["quota"]: row["customers"] for row in await connection.fetch(sql("quota_counts"))}


async def add_stored(database: Database, written: Mapping[tuple[str, date], int]) -> None:
    """Counts what was written of each customer and day."""
    async with database.connection() as connection:
        await connection.execute(
            sql("stored_note"),
            [customer for customer, _ in written],
            [day for _, day in written],
            list(written.values()),
        )


async def stored(database: Database, customers: Collection[str] | None) -> Mapping[str, int]:
    """What the samples of these customers take, about; None: of all."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            *filtered("stored_bytes", None if customers is None else sorted(customers))
        )
    return {row["customer_id"]: row["bytes"] for row in rows}


async def devices(database: Database, customer: str) -> int:
    """How many a customer has."""
    async with database.connection() as connection:
        count: int = await connection.fetchval(sql("device_count"), customer)
    return count


def _number(allowed: float) -> float | int:
    return int(allowed) if allowed.is_integer() else allowed


def _over(row: Record) -> OverQuota:
    return OverQuota(
        customer=row["customer_id"] or None,
        quota=QuotaKind(row["quota"]),
        allowed=row["allowed"],
        device=row["device_id"],
        since=row["since"],
        last_at=row["last_at"],
        dead_letters=row["dead_letters"],
        dropped=row["dropped"],
        dropped_bytes=row["dropped_bytes"],
        slowed_seconds=row["slowed_seconds"],
    )

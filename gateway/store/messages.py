"""Messages that are dead letters: what people see of them, and what it takes to try them again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from gateway.store.pool import Database, Record
from gateway.store.queries import filtered, sql

LAST_ID = 2**63 - 1
HEAD_BYTES = 512
"""Of a payload, in a list."""

MAX_COUNTED = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadMessageFilter:
    """Which of them. `customer` None: of everybody, and what is nobody's; `source` "": of no source; `topic`:
    part of it; `up_to`: none that came after this id.
    """

    customer: str | None = None
    source: str | None = None
    reason: str | None = None
    topic: str | None = None
    up_to: int = LAST_ID


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedDeadMessage:
    """One of them. `head`: the payload's first bytes, of `size_bytes`."""

    id: int
    customer: str | None
    source: str | None
    topic: str
    reason: str
    detail: str
    occurrences: int
    first_at: datetime
    last_at: datetime
    size_bytes: int
    head: bytes
    is_retained: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadMessageGroup:
    """Those of one source (None: of no source) and reason."""

    source: str | None
    reason: str
    messages: int
    occurrences: int
    last_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """How many there are by source and reason. `newest`: the greatest id among them; `complete` False: there
    are more, and the newest were counted.
    """

    groups: tuple[DeadMessageGroup, ...]
    newest: int
    complete: bool


async def page(
    database: Database, wanted: DeadMessageFilter, *, before: int = LAST_ID, limit: int
) -> list[ListedDeadMessage]:
    """The newest first."""
    name, customer = _of(wanted.customer, "message_list")
    before = before if wanted.up_to == LAST_ID else min(before, wanted.up_to + 1)
    async with database.connection() as connection:
        filters = wanted.reason, wanted.source, wanted.topic
        rows = await connection.fetch(*filtered(name, *filters, before, limit, HEAD_BYTES, *customer))
    return [_message(row) for row in rows]


async def counted(database: Database, customer: str | None) -> Counted:
    """Of one customer, or of all."""
    name, own = _of(customer, "message_counts")
    async with database.connection() as connection:
        rows = await connection.fetch(sql(name), MAX_COUNTED, *own)
    groups = tuple(
        DeadMessageGroup(
            **{name: row[name] for name in ("source", "reason", "messages", "occurrences", "last_at")}
        )
        for row in rows
    )
    return Counted(
        groups=groups,
        newest=max((row["newest"] for row in rows), default=0),
        complete=sum(group.messages for group in groups) < MAX_COUNTED,
    )


async def one(database: Database, message: int, *, payload_bytes: int) -> ListedDeadMessage | None:
    """With so much of its payload; None when there is none."""
    async with database.connection() as connection:
        row = await connection.fetchrow(sql("message_read"), message, payload_bytes)
    return None if row is None else _message(row)


async def ids(database: Database, wanted: DeadMessageFilter, *, after: int, limit: int) -> list[int]:
    """The oldest first."""
    name, customer = _of(wanted.customer, "message_ids")
    filters = wanted.reason, wanted.source, wanted.topic
    async with database.connection() as connection:
        rows = await connection.fetch(*filtered(name, *filters, after, wanted.up_to, limit, *customer))
    return [row["dead_letter_id"] for row in rows]


async def discard(database: Database, wanted: DeadMessageFilter, *, expected: int) -> int:
    """Lets go of them for good, if there are as many as expected; how many there are."""
    filters = wanted.customer, wanted.reason, wanted.source, wanted.topic
    async with database.connection() as connection:
        count: int = await connection.fetchval(*filtered("message_discard", *filters, wanted.up_to, expected))
    return count


async def discard_one(database: Database, message: int) -> bool:
    """Lets go of it for good; whether it was there."""
    async with database.connection() as connection:
        return bool(await connection.fetchval(sql("message_remove"), message))


async def fitting(database: Database, wanted: DeadMessageFilter) -> int:
    """How many there are."""
    filters = wanted.customer, wanted.reason, wanted.source, wanted.topic
    async with database.connection() as connection:
        count: int = await connection.fetchval(*filtered("message_fitting", *filters, wanted.up_to))
    return count


async def note_refused(
    database: Database, message: int, *, reason: str, detail: str, customer: str | None, source: str | None
) -> None:
    """It was tried again and stays, for this reason."""
    async with database.connection() as connection:
        await connection.execute(
            sql("message_refused"), message, reason, detail.replace("\0", "\\0"), customer, source
        )


def _of(customer: str | None, name: str) -> tuple[str, tuple[str, ...]]:
    """The statement for everybody, or that for one customer, who is its last parameter."""
    return (name, ()) if customer is None else (f"{name}_customer", (customer,))


def _message(row: Record) -> ListedDeadMessage:
    return ListedDeadMessage(
        id=row["dead_letter_id"],
        customer=row["customer_id"],
        source=row["source"],
        topic=row["topic"] or "",
        reason=row["reason"],
        detail=row["detail"],
        occurrences=row["occurrences"],
        first_at=row["first_at"],
        last_at=row["last_at"],
        size_bytes=row["bytes"] or 0,
        head=row["head"] or b"",
        is_retained=row["is_retained"],
    )

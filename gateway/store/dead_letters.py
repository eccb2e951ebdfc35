"""Dead letters of both kinds: messages that were no samples, and readings that no system took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from gateway.store.pool import Database
from gateway.store.queries import filtered, sql

Kind = Literal["message", "reading"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One of them, without its bytes. A message has a topic, a reading a connection, a meter and a window."""

    id: int
    kind: Kind
    customer: str | None
    connection: str | None
    topic: str | None
    meter: str | None
    window_start: datetime | None
    reason: str
    detail: str
    occurrences: int
    first_at: datetime
    last_at: datetime
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptDeadLetter:
    """One with its bytes: what people see of it, and what is needed to try it again."""

    kind: Kind
    meter: str | None
    window_start: datetime | None
    detail: str
    connection: str | None
    topic: str
    reason: str
    payload: bytes
    first_at: datetime
    last_at: datetime
    occurrences: int
    customer: str | None
    is_retained: bool


async def listed(
    database: Database, *, connection_id: str | None = None, kind: Kind | None = None, limit: int
) -> Sequence[DeadLetter]:
    """The newest first."""
    async with database.connection() as connection:
        rows = await connection.fetch(*filtered("dead_letter_list", connection_id, kind, limit))
    return [
        DeadLetter(
            id=row["dead_letter_id"],
            kind=row["kind"],
            customer=row["customer_id"],
            connection=row["connection_id"],
            topic=row["topic"],
            meter=row["meter"],
            window_start=row["window_start"],
            reason=row["reason"],
            detail=row["detail"],
            occurrences=row["occurrences"],
            first_at=row["first_at"],
            last_at=row["last_at"],
            bytes=row["bytes"] or 0,
        )
        for row in rows
    ]


async def read(database: Database, dead_letter: int) -> KeptDeadLetter | None:
    """One with its bytes; None when there is none."""
    async with database.connection() as connection:
        row = await connection.fetchrow(sql("dead_letter_read"), dead_letter)
    if row is None:
        return None
    return KeptDeadLetter(
        kind=row["kind"],
        meter=row["meter"],
        window_start=row["window_start"],
        detail=row["detail"],
        connection=row["connection_id"],
        topic=row["topic"] or "",
        reason=row["reason"],
        payload=row["payload"] or b"",
        first_at=row["first_at"],
        last_at=row["last_at"],
        occurrences=row["occurrences"],
        customer=row["customer_id"],
        is_retained=row["is_retained"],
    )

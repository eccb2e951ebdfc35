"""Due windows: marking them from telemetry, and computing their values. No telemetry leaves PostgreSQL as
rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from gateway.model.delivery import DueWindow
from gateway.store.pool import Connection
from gateway.store.queries import sql
from gateway.store.streams import Claim


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Positions past `after` up to `until`, to scan now; `end` is where the log ends for the moment."""

    after: int
    until: int
    end: int

    @property
    def is_last(self) -> bool:
        """Whether nothing is left to scan after it."""
        return self.until >= self.end


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """What one step of an initial sync looked at, and how many windows it marked."""

    samples: int
    windows: int


async def next_slice(connection: Connection, customer: str, watermark: int, rows: int) -> Slice:
    """The next whole positions past the watermark: about `rows` samples, more when one position alone has
    more.
    """
    bounds = await connection.fetchrow(sql("scan_bounds"), customer, watermark, rows)
    end, until = (watermark, watermark) if bounds is None else (bounds["end"], bounds["until"])
    return Slice(after=watermark, until=max(until, watermark), end=max(end, watermark))


async def mark_changed(
    connection: Connection, claim: Claim, part: Slice, lateness: timedelta, *, with_delta: bool
) -> int:
    """Marks every window that the slice touches; the number of samples looked at."""
    samples: int = await connection.fetchval(
        sql("scan_mark"), claim.connection, claim.customer, part.after, part.until, lateness, with_delta
    )
    return samples


async def advance(connection: Connection, claim: Claim, *, watermark: int, device_watermark: int) -> None:
    """Moves the incremental watermark, in the transaction that marked everything below it."""
    await connection.execute(sql("scan_advance"), claim.connection, claim.name, watermark, device_watermark)


async def mark_initial(
    connection: Connection, claim: Claim, start: datetime, end: datetime, lateness: timedelta
) -> Marked:
    """Marks the windows of the samples in [start, end) and moves the cursor from `start` to `end`.

    A walk that was begun again meanwhile stays where that begins: marks too many are settled.
    """
    row = await connection.fetchrow(
        sql("initial_mark"), claim.connection, claim.customer, start, end, lateness
    )
    assert row is not None
    await connection.execute(sql("initial_advance"), claim.connection, claim.name, end, start)
    return Marked(samples=row["samples"], windows=row["windows"])


async def hand_over(connection: Connection, claim: Claim) -> None:
    """At the end of an initial sync: what is still open goes on with the incremental one."""
    await connection.execute(sql("initial_hand_over"), claim.connection)


BEGINNING = (datetime(1, 1, 1, tzinfo=UTC), "")
"""Before every window."""


async def compute_due(
    connection: Connection, claim: Claim, limit: int, after: tuple[datetime, str] = BEGINNING
) -> list[DueWindow]:
    """Up to `limit` closed windows, the oldest past `after` (window start, meter), ascending by (meter,
    window_start).
    """
    rows = await connection.fetch(
        sql("due_compute"), claim.connection, claim.phase, claim.customer, limit, *after
    )
    return [_due(dict(row)) for row in rows]


def _due(row: dict[str, Any]) -> DueWindow:
    computed = row.pop("computed")
    value, unfit, is_beyond = (None, None, False) if computed is None else computed
    return DueWindow(**row, value=value, unfit=unfit, is_beyond=bool(is_beyond), is_empty=computed is None)

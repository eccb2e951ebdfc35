"""Marks due windows by telemetry, and computes their values. PostgreSQL does both: no sample leaves it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from gateway.model.arithmetic import Arithmetic, Reduced, told
from gateway.model.delivery import DueWindow
from gateway.store.mappings import conversion_of
from gateway.store.pool import Connection, Record
from gateway.store.queries import sql
from gateway.store.streams import Claim


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A slice of the log: the positions past `after` up to `until`. `end` is where the log ends at the
    moment.
    """

    after: int
    until: int
    end: int

    @property
    def is_last(self) -> bool:
        """Whether nothing is left to scan after it."""
        return self.until >= self.end


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceReader:
    """A connection that a slice is scanned for. It has scanned all positions up to `past` before; its samples
    may come as late as `lateness`.
    """

    connection: str
    past: int
    lateness: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """How many samples one step of an initial sync looked at, and how many windows it marked."""

    samples: int
    windows: int


async def next_slice(connection: Connection, customer: str, watermark: int, rows: int) -> Slice:
    """The next slice past the watermark: whole positions with about `rows` samples, or a single one that has
    more.
    """
    bounds = await connection.fetchrow(sql("scan_bounds"), customer, watermark, rows)
    end, until = (watermark, watermark) if bounds is None else (bounds["end"], bounds["until"])
    return Slice(after=watermark, until=max(until, watermark), end=max(end, watermark))


async def mark_changed(
    connection: Connection,
    customer: str,
    part: Slice,
    readers: Sequence[SliceReader],
    *,
    with_neighbours: bool,
) -> int:
    """Marks every window of the readers in which a sample of the slice lies; `with_neighbours` also windows
    whose value depends on such a sample. Returns how many samples were looked at.
    """
    samples: int = await connection.fetchval(
        sql("scan_mark"),
        customer,
        part.after,
        part.until,
        [reader.connection for reader in readers],
        [reader.past for reader in readers],
        [reader.lateness for reader in readers],
        with_neighbours,
    )
    return samples


async def along(
    connection: Connection, claim: Claim, part: Slice, beside: Mapping[str, int]
) -> dict[str, int]:
    """Which of the connections `beside` the slice can be scanned for too, each with the position that it has
    scanned up to. `beside` has, for each, the number of the configuration that its link was built from. Their
    meters stay in force until the transaction ends.
    """
    rows = await connection.fetch(
        sql("scan_along"),
        claim.customer,
        part.after,
        part.until,
        part.end,
        list(beside),
        list(beside.values()),
    )
    return {row["connection_id"]: row["watermark"] for row in rows}


async def advance(connection: Connection, claim: Claim, part: Slice, others: Collection[str] = ()) -> None:
    """Advances the incremental watermark of the stream, and of the `others` that the slice was scanned for.
    Called in the transaction that marked the windows of the slice.
    """
    await connection.execute(
        sql("scan_advance"), claim.connection, claim.name, part.until, part.end, list(others)
    )


async def history_days(connection: Connection, start: datetime, until: datetime) -> dict[date, int]:
    """About how many samples each day in [start, until] holds, ascending; only days that have a partition."""
    rows = await connection.fetch(sql("history_days"), start, until)
    return {row["day"]: row["samples"] for row in rows}


async def mark_initial(
    connection: Connection,
    claim: Claim,
    start: datetime,
    end: datetime,
    lateness: timedelta,
    *,
    total: int,
    walked: int,
) -> Marked:
    """Marks the windows of the samples in [start, end) and moves the cursor from `start` to `end`. About
    `walked` of `total` samples are behind it then.

    Where the walk was begun again meanwhile the cursor stays at its new beginning. The marks that are too
    many do no harm: their windows are settled.
    """
    row = await connection.fetchrow(
        sql("initial_mark"), claim.connection, claim.customer, start, end, lateness
    )
    assert row is not None
    await connection.execute(sql("initial_advance"), claim.connection, claim.name, end, start, total, walked)
    return Marked(samples=row["samples"], windows=row["windows"])


async def hand_over(connection: Connection, claim: Claim) -> None:
    """Hands the windows of an initial sync that are not closed yet over to the incremental sync."""
    await connection.execute(sql("initial_hand_over"), claim.connection)


BEGINNING = (datetime(1, 1, 1, tzinfo=UTC), "")
"""A (window start, meter) before every other."""


async def compute_due(
    connection: Connection, claim: Claim, limit: int, after: tuple[datetime, str] = BEGINNING
) -> list[DueWindow]:
    """Computes up to `limit` closed windows, the oldest ones past `after` (window start, meter). Returns them
    ascending by (meter, window_start).
    """
    rows = await connection.fetch(
        sql("due_compute"), claim.connection, claim.phase, claim.customer, limit, *after
    )
    return [_due(row) for row in rows]


def _due(row: Record) -> DueWindow:
    computed = row["computed"]
    made = Reduced(*computed or ())
    scale, offset, conversion = row["scale"], row["value_offset"], row["conversion"]
    if scale != 1.0 or offset != 0.0 or conversion is not None:  # most meters have no arithmetic
        arithmetic = Arithmetic(scale=scale, offset=offset, conversion=conversion_of(conversion))
        made = told(made, arithmetic, row["reduce"])
    return DueWindow(
        meter=row["meter"],
        window_start=row["window_start"],
        mark=row["mark"],
        attempts=row["attempts"],
        unit=row["unit"],
        deadband=row["deadband"],
        reduce=row["reduce"],
        value=made.value,
        delivered=row["delivered"],
        previous=row["previous"],
        previous_at=row["previous_at"],
        max_silence=row["max_silence"],
        unfit=made.unfit,
        is_beyond=bool(made.is_beyond),
        is_empty=computed is None,
        noise=(made.noise or 0.0) if row["of_doubles"] else 0.0,
        doubt=row["doubt"],
        doubted=row["doubted"],
    )

"""Windows of the local calendar as rows: cut before they are needed, and never cut again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, time, timedelta
from itertools import islice

import asyncpg

from gateway import zones
from gateway.model.calendar import Calendar, Span, uncovered
from gateway.store.pool import Connection
from gateway.store.queries import sql

AT_ONCE = 2_000

_DAY = timedelta(days=1)


async def cut(connection: Connection, customer: str, calendars: Iterable[Calendar]) -> None:
    """Within the transaction that marks windows: afterwards each sample of the customer that was committed
    before lies in a window of each of these calendars, whose zones are known here.
    """
    wanted = {calendar.key: calendar for calendar in calendars}
    if not wanted or not await _missing(connection, customer, wanted):
        return
    # Asked again under the lock: whoever held it may have cut them.
    await connection.execute(sql("calendar_lock"), customer)
    for key, (reach, held) in (await _missing(connection, customer, wanted)).items():
        found = _uncovered(wanted[key], reach, held)
        # In a thread, for samples of many years would hold the loop; in parts, for the server ends a
        # transaction in which nothing is said for long.
        while part := await asyncio.to_thread(list, islice(found, AT_ONCE)):
            begins, ends = [begin for begin, _ in part], [end for _, end in part]
            await connection.execute(sql("calendar_add"), customer, key, begins, ends)


async def _missing(
    connection: Connection, customer: str, wanted: Iterable[str]
) -> dict[str, tuple[Span, Span | None]]:
    """Calendars of which windows are not cut yet: from where to where they are needed, and are cut."""
    missing: dict[str, tuple[Span, Span | None]] = {}
    for row in await connection.fetch(sql("calendar_cut"), customer, list(wanted)):
        reach = _reach(row)
        held = None if row["cut_from"] is None else (row["cut_from"], row["cut_until"])
        if reach is not None and (held is None or reach[0] < held[0] or held[1] < reach[1]):
            missing[row["calendar"]] = reach, held
    return missing


def _uncovered(calendar: Calendar, reach: Span, held: Span | None) -> Iterator[Span]:
    zone = zones.zone(calendar.zone)
    assert zone is not None, f"{calendar.zone} is asked for when the connection is built"
    return uncovered(*reach, calendar, zone, cut=held)


def _reach(row: asyncpg.Record) -> Span | None:
    """From when to when the customer has samples. No window further ahead is cut: a change of a zone's
    rules counts for all that is still to come.
    """
    if row["first_day"] is None:
        return None
    first, last = (datetime.combine(row[name], time(), UTC) for name in ("first_day", "last_day"))
    return first, last + _DAY

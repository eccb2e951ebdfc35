"""Records as they are read: by consumers, by people, and by what tells them over MQTT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

import asyncpg

from gateway.model import bounds
from gateway.model.errors import RequestRefused
from gateway.model.record import BEGINNING, Change, LogPlace, change_of, write_cursor
from gateway.store.pool import Connection, Database
from gateway.store.queries import filtered, sql

Mode = Literal["changes", "retained", "off"]

EXPIRED_AT_ONCE = 5_000
CUSTOMERS_AT_ONCE = 1_000

PAGE_BYTES = 8 << 20
"""Of bodies, with which a page ends: a thousand of the largest are 256 MB, several times over in memory."""

_COLUMNS = 12
"""Of a record, in every statement that reads one."""


class StoredRecord(NamedTuple):
    """The last state of a record. `body` is JSON as text: most readers only pass it on.

    A tuple, in the order of the statements' columns: a page has a thousand, and a dataclass of each costs
    more than all that is done with it.
    """

    customer: str
    connection: str
    stream: str
    key: str
    version: int
    revision: int
    body: str
    modified_at: datetime
    source_modified_at: datetime | None
    deleted: bool
    truncated: bool
    progress: str | None
    reference: str | None

    @property
    def change(self) -> Change:
        """What its last change was."""
        return change_of(self.version, deleted=self.deleted)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordPage:
    """A part of the log. `position`: go on from it, whether there is more or not; `epoch`: of the log;
    `began`: as of `LogPlace`.
    """

    customer: str
    records: Sequence[StoredRecord]
    epoch: int
    position: int
    has_more: bool
    began: int = 0

    @property
    def next(self) -> str:
        """The cursor to go on from."""
        return write_cursor(
            LogPlace(customer=self.customer, epoch=self.epoch, position=self.position, began=self.began)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordToPublish:
    """A record to be told, with how its connection wants it. `retained`: the broker
    keeps an earlier state.
    """

    record: StoredRecord
    mode: Mode
    retained: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordPlace:
    """A record by name."""

    customer: str
    connection: str
    stream: str
    key: str
    retained: bool


class Records:
    """Reads on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self,
        customer: str,
        *,
        place: LogPlace = BEGINNING,
        connection: str | None = None,
        stream: str | None = None,
        modified_after: datetime | None = None,
        limit: int,
        max_bytes: int = PAGE_BYTES,
    ) -> RecordPage:
        """The next records after `place`, in the order of their changes. Whoever always goes on from the
        position that comes back sees the last state of every record. A page has `limit` of them at most, and
        ends with the one whose body makes it `max_bytes`.

        `modified_after` is by our own time of the change, which is never before that of the change before it.
        Raises RequestRefused for a place that this log does not have, for another was restored in its stead,
        and for one from which on a deletion is not told any more.
        """
        position = place.position
        since = None if modified_after is None else bounds.instant(modified_after)
        # The position first: what is committed after it has a later revision, and is met by the next request.
        async with self._database.connection() as session:
            log = await session.fetchrow(sql("record_log_position"), customer)
            assert log is not None
            last, epoch = log["position"], log["epoch"]
            await _check(session, customer, place, last, epoch)
            after = (position, since, limit + 1, max_bytes)
            if connection is None and stream is None:
                rows = await session.fetch(sql("record_page"), customer, *after)
            else:
                rows = await session.fetch(sql("record_page_of"), customer, *after, connection, stream)
            # Whoever begins holds nothing, so nothing that was removed before he began is missing for him.
            if position and place.knows < await session.fetchval(sql("record_log_expired"), customer):
                raise RequestRefused(
                    "records.cursor_gone",
                    "cursor: records were deleted since, so long ago that they are not told any more: leave"
                    " the cursor out, read all records again, drop what you hold and do not meet, and go on"
                    " from there.",
                )
        records = [_record(customer, row) for row in rows[:limit]]
        reached = records[-1].revision if records else position
        is_cut = bool(rows) and rows[-1]["total"] >= max_bytes and reached < last
        has_more = len(rows) > limit or is_cut
        return RecordPage(
            customer=customer,
            records=records,
            epoch=epoch,
            position=reached if has_more else max(position, last, reached),
            has_more=has_more,
            began=place.began if position else last,
        )

    async def one(
        self, customer: str, connection: str, stream: str, key: str
    ) -> tuple[StoredRecord, Sequence[datetime]] | None:
        """A record and the times of its last changes, the newest last; None where there is none."""
        async with self._database.connection() as session:
            row = await session.fetchrow(sql("record_one"), customer, connection, stream, key)
        return None if row is None else (_record(customer, row), list(row["changed_at"]))

    async def listed(
        self, customer: str, connection: str, stream: str, *, after: str = "", holds: str = "", limit: int
    ) -> list[StoredRecord]:
        """By key, for people; `holds`: only those whose key or body has this text."""
        like = None if not holds else f"%{_escaped(holds)}%"
        async with self._database.connection() as session:
            asked = filtered("record_list", customer, connection, stream, after, like, limit)
            rows = await session.fetch(*asked)
        return [_record(customer, row) for row in rows]


async def _check(session: Connection, customer: str, place: LogPlace, last: int, epoch: int) -> None:
    """From the beginning every log can be read, and a cursor of before there were
    epochs up to where it ends.
    """
    if place.position <= last and (place.epoch in (None, epoch) or place.position == 0):
        return
    if place.position > last and place.epoch is not None:
        # others have such cursors too, and would miss what comes until the log has caught up with them
        await session.execute(sql("record_log_renew"), customer, place.position, place.epoch)
    raise RequestRefused(
        "records.cursor_gone",
        "cursor: the gateway's database was restored since, and its log of records is another one: leave the"
        " cursor out, read all records again, and go on from there.",
    )


def _escaped(text: str) -> str:
    for character in "\\%_":
        text = text.replace(character, f"\\{character}")
    return text


async def behind(database: Database) -> dict[str, int]:
    """Customers whose records are not all told, with the position up to which they are."""
    async with database.connection() as connection:
        rows = await connection.fetch(sql("publication_behind"))
    return {row["customer_id"]: row["position"] for row in rows}


async def to_tell(
    database: Database, customer: str, position: int, limit: int
) -> tuple[list[RecordToPublish], int]:
    """The next records to tell, and the position that everything is told up to once they are."""
    async with database.connection() as connection:
        last: int = await connection.fetchval(sql("record_log_position"), customer)
        rows = await connection.fetch(sql("publication_page"), customer, position, limit)
    told = [
        RecordToPublish(record=_record(customer, row), mode=row["mode"], retained=row["retained"])
        for row in rows
    ]
    return told, (
        told[-1].record.revision if len(told) == limit else max([last, *(t.record.revision for t in told)])
    )


async def told(database: Database, customer: str, position: int) -> None:
    """Everything up to the position is told."""
    async with database.connection() as connection:
        await connection.execute(sql("publication_told"), customer, position)


async def note_retained(
    database: Database, customer: str, places: Sequence[RecordPlace], *, retained: bool
) -> None:
    """Which the broker keeps, or no longer keeps. Before it is published, so that it
    can always be emptied.
    """
    if places:
        names = [[p.connection for p in places], [p.stream for p in places], [p.key for p in places]]
        async with database.connection() as connection:
            await connection.execute(sql("publication_retain"), customer, *names, retained)


async def unwanted(database: Database, limit: int) -> list[RecordPlace]:
    """What the broker keeps of connections that retain nothing any more, to be emptied."""
    async with database.connection() as connection:
        return [_place(row) for row in await connection.fetch(sql("record_unwanted"), limit)]


async def of_ended(database: Database, limit: int) -> list[RecordPlace]:
    """Records of disconnected connections, to be removed."""
    async with database.connection() as connection:
        rows = await connection.fetch(sql("record_ended"), limit)
        if not rows:
            await connection.execute(sql("inbound_count_clear"))
    return [_place(row) for row in rows]


async def remove(database: Database, places: Sequence[RecordPlace]) -> None:
    """They are gone for good."""
    columns = (
        [place.customer for place in places],
        [place.connection for place in places],
        [place.stream for place in places],
        [place.key for place in places],
    )
    async with database.connection() as connection:
        await connection.execute(sql("record_remove"), *columns)


async def expire(database: Database, *, now: datetime, retention: timedelta) -> int:
    """Removes records that were deleted so long ago, a few thousand in each transaction; how many."""
    before, removed = now - retention, 0
    while True:
        async with database.connection() as connection:
            rows = await connection.fetch(sql("record_expired"), before, CUSTOMERS_AT_ONCE)
        if not rows:
            return removed
        for row in rows:
            async with database.transaction() as connection:
                await connection.execute(sql("record_log_lock"), row["customer_id"])
                removed += await connection.fetchval(
                    sql("record_expire"), row["customer_id"], before, EXPIRED_AT_ONCE
                )


def _record(customer: str, row: asyncpg.Record) -> StoredRecord:
    return StoredRecord(customer, *row[:_COLUMNS])


def _place(row: asyncpg.Record) -> RecordPlace:
    return RecordPlace(
        customer=row["customer_id"],
        connection=row["connection_id"],
        stream=row["stream"],
        key=row["key"],
        retained=row["retained"],
    )

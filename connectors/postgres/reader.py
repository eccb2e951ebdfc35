"""Reads the tables and views of a connection back, page by page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta

from connectors.kit.bisect import BatchRefusal
from connectors.kit.inbound import key_of, known
from connectors.postgres.records import (
    COLUMNS,
    KEYS_PAGE,
    RUNNING,
    Horizon,
    TableShape,
    cursor_of,
    keys_cursor,
    keys_query,
    page_query,
    shape,
    to_record,
)
from connectors.postgres.streams import TableStream
from gateway.model.errors import BadConfiguration, CursorExpired
from gateway.model.inbound import InboundPage, InboundStream, KeyPage

Rows = Callable[[str, Sequence[object]], Awaitable[Sequence[Sequence[object]]]]


class Tables:
    """By the names that the settings give them. `rows` runs a statement that only reads."""

    def __init__(self, streams: Mapping[str, TableStream], rows: Rows) -> None:
        self._streams = streams
        self._rows = rows
        self._horizon = Horizon()
        self.inbound: Sequence[InboundStream] = tuple(stream.stream(name) for name, stream in streams.items())

    async def settled(self, name: str) -> datetime:
        """Until when everything is visible that was stamped with its time."""
        patience = timedelta(seconds=self._named(name).settle_seconds)
        return self._horizon.settled(await self._rows(RUNNING, ()), patience)

    async def pull(
        self, name: str, since: datetime | None, until: datetime, cursor: str | None
    ) -> InboundPage:
        """A page of what changed in [since, until)."""
        at = await self._shape(name)
        timed = at.stream.modified is not None
        query, arguments = page_query(at, since, until, cursor)
        rows = await self._page(name, at, query, arguments, cursor)
        records = [
            record
            for row in rows
            if (record := to_record(at, row, within=(since, until) if timed else None)) is not None
        ]
        is_more = len(rows) == at.stream.page
        return InboundPage(records=records, cursor=cursor_of(at, rows[-1], timed=timed) if is_more else None)

    async def pull_open(self, name: str, cursor: str | None) -> InboundPage:
        """A page of what nobody has closed yet."""
        at = await self._shape(name)
        query, arguments = page_query(at, None, None, cursor, is_open=True)
        rows = await self._page(name, at, query, arguments, cursor)
        records = [record for row in rows if (record := to_record(at, row, within=None)) is not None]
        is_more = len(rows) == at.stream.page
        return InboundPage(records=records, cursor=cursor_of(at, rows[-1], timed=False) if is_more else None)

    async def keys(self, name: str, cursor: str | None) -> KeyPage:
        """A page of every key."""
        at = await self._shape(name)
        query, arguments = keys_query(at, cursor)
        rows = await self._page(name, at, query, arguments, cursor)
        return KeyPage(
            keys=[key_of(list(row), None) for row in rows],
            cursor=keys_cursor(rows[-1]) if len(rows) == KEYS_PAGE else None,
        )

    def _named(self, name: str) -> TableStream:
        return self._streams[known(self.inbound, name, where="settings.streams").name]

    async def _shape(self, name: str) -> TableShape:
        """As the table is now: who changes it meanwhile is told what is missing, and
        not served by a memory.
        """
        stream = self._named(name)
        rows = await self._rows(COLUMNS, (stream.schema_name, stream.table))
        return shape(name, stream, {str(row[0]): str(row[1]) for row in rows})

    async def _page(
        self, name: str, at: TableShape, query: str, arguments: Sequence[object], cursor: str | None
    ) -> Sequence[Sequence[object]]:
        try:
            rows = await self._rows(query, arguments)
        except BatchRefusal as error:  # a value of the cursor that its column does not hold any more
            if cursor is None:
                raise BadConfiguration(f"settings.streams.{name} cannot be read: {error}") from error
            raise CursorExpired(f"the page of {name} cannot be found any more: {error}") from error
        if any(None in row[: len(at.stream.keys)] for row in rows):
            raise BadConfiguration(
                f"settings.streams.{name}.key: a row of {at.stream.table} has null in"
                f" {' and '.join(at.stream.keys)}"
            )
        return rows

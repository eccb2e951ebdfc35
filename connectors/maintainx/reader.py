"""Reads MaintainX's lists back, raises work orders and comments them.

A list of work orders can be sorted by the time of the last change and cannot be asked for an interval. So it
is walked from the newest change on, and no further than the interval goes: what changes meanwhile moves to
the front and is in the next interval, and what stands behind moves down and comes twice at most.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol
from urllib.parse import quote

from connectors.kit.answer import Answer
from connectors.kit.inbound import is_ascending, page_at
from connectors.kit.paging import ListPage, walk
from connectors.maintainx.mapping import to_time
from connectors.maintainx.records import (
    KEYS_OF_ORDERS,
    LISTS,
    NEWEST_ORDERS,
    OPEN_ORDERS,
    WORK_ORDERS,
    Listing,
    order_body,
    reference_of,
    to_record,
    within,
)
from gateway.model.errors import BadConfiguration, CursorExpired, OutcomeUnknown, Unavailable
from gateway.model.exchange import EventToRaise
from gateway.model.inbound import InboundPage, KeyPage, check_page
from gateway.model.outcome import Accepted, Duplicate, Outcome, Rejected

Row = Mapping[str, object]
REFUSALS = (400, 404, 413, 422)
_PAGE_SIZE = 200  # the most that a list gives
_MAX_MARKS = 5000
# A device's clock may be ahead of MaintainX's, by which work orders are sorted.
_SKEW = timedelta(days=1)


class Call(Protocol):
    """The connector's way to MaintainX: limits, clock, errors."""

    def __call__(
        self, operation: str, method: str, path: str, *, json: object = None, idempotent: bool | None = None
    ) -> Awaitable[Answer]:
        """Answers with 2xx, and with REFUSALS where it is no GET."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ListPart:
    """One page of a list."""

    rows: Sequence[Row]
    cursor: str | None


class MaintainXReader:
    """Lists of one organization."""

    def __init__(self, call: Call, words: Callable[[Answer], str]) -> None:
        self._call = call
        self._words = words
        self._marks: dict[str, datetime] = {}
        """Cursors of pages seen, with the time of change of their first record: an interval in the past
        begins at one of them and not at today. Only a help: a page that does not begin behind the interval is
        not believed.
        """

    async def pull(
        self, stream: str, since: datetime | None, until: datetime, cursor: str | None
    ) -> InboundPage:
        """A page. Work orders descend by their change; meters and assets come whole."""
        if stream != WORK_ORDERS:
            part = await self._part(LISTS[stream], cursor)
            return InboundPage(records=[to_record(stream, row) for row in part.rows], cursor=part.cursor)
        part = await self._part(LISTS[stream], cursor) if cursor else await self._first(until)
        records = [to_record(stream, row) for row in part.rows]
        kept = within(records, since, until)
        is_over = since is not None and _is_behind([record.modified_at for record in records], since)
        return InboundPage(records=kept, cursor=None if is_over else part.cursor)

    async def pull_open(self, cursor: str | None) -> InboundPage:
        """Work orders that nobody has ended, ascending by their creation."""
        part = await self._part(OPEN_ORDERS, cursor)
        return InboundPage(records=[to_record(WORK_ORDERS, row) for row in part.rows], cursor=part.cursor)

    async def keys(self, cursor: str | None) -> KeyPage:
        """Of work orders, ascending by their creation: what is new comes at the end."""
        part = await self._part(KEYS_OF_ORDERS, cursor)
        records = [to_record(WORK_ORDERS, row) for row in part.rows]
        return KeyPage(keys=[record.key for record in records if not record.is_deleted], cursor=part.cursor)

    async def raise_order(self, event: EventToRaise, asset: int | None, now: datetime) -> Outcome:
        """A work order, unless there is one with the event's reference."""
        number = await self._raised(event.reference, min(event.at, now) - _SKEW)
        if number is not None:
            return Duplicate(remote_id=number)
        answer = await self._call("raise_event", "POST", "/workorders", json=order_body(event, asset))
        if answer.status in REFUSALS:
            if answer.json is None:
                raise BadConfiguration(f"{self._words(answer)}; check settings.base_url")
            return Rejected(code=str(answer.status), message=self._words(answer))
        made = answer.json.get("id") if isinstance(answer.json, dict) else None
        if not isinstance(made, int | str) or isinstance(made, bool):
            raise OutcomeUnknown(
                "MaintainX's answer to a new work order bears no id", request_id=answer.request_id
            )
        return Accepted(remote_id=str(made))

    async def note(self, remote_id: str, text: str) -> None:
        """A comment, unless it is there. A work order that is gone needs none."""
        path = f"/workorders/{quote(remote_id, safe='')}/comments"
        try:
            async for comment in walk(lambda cursor: self._comments(path, cursor)):
                if comment.get("content") == text:
                    return
        except BadConfiguration:  # 404: somebody deleted it
            return
        answer = await self._call("note_event", "POST", path, json={"content": text})
        if answer.status in REFUSALS and answer.status != 404:
            raise BadConfiguration(f"MaintainX takes no comment: {self._words(answer)}")

    async def _raised(self, reference: str, since: datetime) -> str | None:
        """The id of the work order that bears the reference, among those that were created since. By a walk:
        nothing says that a filter by title finds a part of one, or that an index knows a work order of this
        second.
        """

        async def page(cursor: str | None) -> ListPage[Row]:
            part = await self._part(NEWEST_ORDERS, cursor, operation="find_event")
            is_over = _is_behind([to_time(row.get("createdAt")) for row in part.rows], since)
            return ListPage(items=part.rows, cursor=None if is_over else part.cursor)

        async for row in walk(page):
            if reference_of(row.get("description")) == reference:
                return to_record(WORK_ORDERS, row).key
        return None

    async def _first(self, until: datetime) -> ListPart:
        """The page at which an interval that ends at `until` begins."""
        behind = [(at, cursor) for cursor, at in self._marks.items() if at >= until]
        if behind:
            cursor = min(behind)[1]
            try:
                part = await self._part(LISTS[WORK_ORDERS], cursor)
            except CursorExpired:
                self._marks.clear()
            else:
                first = to_time(part.rows[0].get("updatedAt")) if part.rows else None
                if first is not None and first >= until:
                    return part
                del self._marks[cursor]
        return await self._part(LISTS[WORK_ORDERS], None)

    async def _part(self, of: Listing, cursor: str | None, *, operation: str = "pull") -> ListPart:
        query = "&".join(part for part in (f"limit={_PAGE_SIZE}", of.query) if part)
        if cursor is not None:
            query += f"&cursor={quote(cursor, safe='')}"
        with page_at(cursor):
            answer = await self._call(operation, "GET", f"{of.path}?{query}")
        part = _read(answer, of.items)
        if of is LISTS[WORK_ORDERS] and cursor is not None and part.rows:
            first = to_time(part.rows[0].get("updatedAt"))
            if first is not None:
                if len(self._marks) >= _MAX_MARKS:
                    self._marks.clear()
                self._marks[cursor] = first
        return part

    async def _comments(self, path: str, cursor: str | None) -> ListPage[Row]:
        query = f"limit={_PAGE_SIZE}" + ("" if cursor is None else f"&cursor={quote(cursor, safe='')}")
        part = _read(await self._call("note_event", "GET", f"{path}?{query}"), "comments")
        return ListPage(items=part.rows, cursor=part.cursor)


def _is_behind(times: Sequence[datetime | None], since: datetime) -> bool:
    """Whether a list that descends by these has come behind `since`. One that does not descend is not
    believed: it is walked to its end.
    """
    known = [at for at in reversed(times) if at is not None]
    return bool(known) and known[0] < since and is_ascending(known)


def _read(answer: Answer, items: str) -> ListPart:
    document = answer.json
    rows = document.get(items) if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(rows, list):
        raise Unavailable(f"MaintainX's list has no `{items}`", request_id=answer.request_id)
    check_page(len(rows), items)
    following = document.get("nextCursor")
    return ListPart(
        rows=[row for row in rows if isinstance(row, dict)],
        cursor=following if isinstance(following, str) and following else None,
    )
